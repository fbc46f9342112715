"""Each path of a prompt as a row of its own, padded in batches: the way that works for any vision-language model.

The model's own chat template and processor write the row. Text of others goes in by a place holder, a token that the
model has never seen, and is put in its place as token ids with special tokens split; it never passes the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from mmreward.judge.labels import Answer, LabelIds, answers, failed
from mmreward.judge.prompt import Given, Piece, Prompt

__all__ = ["PlainRows"]

_HOLDER = "<|mmreward_given_text|>"

Row = dict[str, Tensor]


class PlainRows:
    """Answers of prompts, one row a path. `tokens`: about how many go through the model at once."""

    def __init__(self, model: Any, processor: Any, tokens: int) -> None:
        from tokenizers import AddedToken

        self.model, self.processor, self.tokens = model, processor, tokens
        self.tokenizer = processor.tokenizer
        self.tokenizer.add_tokens([AddedToken(_HOLDER, special=True, normalized=False)], special_tokens=True)
        self.holder = self.tokenizer.convert_tokens_to_ids(_HOLDER)

    def probabilities(self, prompts: Sequence[Prompt], labels: LabelIds) -> list[list[Answer]]:
        paths = [path for prompt in prompts for path in prompt.paths()]
        rows = [self._row(path) for path in paths]
        found: dict[int, Answer] = {i: row for i, row in enumerate(rows) if isinstance(row, Answer)}
        good = {i: row for i, row in enumerate(rows) if not isinstance(row, Answer)}
        for batch in self._batches(good):
            inputs, last = _pad_right([good[i] for i in batch], self._pad_id)
            logits = self.model(**inputs.to(self.model.device)).logits
            told = answers(labels.probabilities(logits[torch.arange(len(batch)), last]))
            found |= zip(batch, told, strict=True)
        answered = iter(found[i] for i in range(len(paths)))
        return [[next(answered) for _ in range(prompt.leaves)] for prompt in prompts]

    def generate(self, paths: Sequence[tuple[Piece, ...]], max_new_tokens: int) -> list[str]:
        """What the model writes after each path, greedily. Raises ValueError for an image that it cannot take."""
        texts = []
        for path in paths:
            row = self._row(path)
            if isinstance(row, Answer):
                raise ValueError(row.error)
            moved = {name: value.to(self.model.device) for name, value in row.items()}
            ids = self.model.generate(**moved, do_sample=False, max_new_tokens=max_new_tokens)
            texts.append(self.tokenizer.decode(ids[0, row["input_ids"].shape[1] :], skip_special_tokens=True))
        return texts

    @property
    def _pad_id(self) -> int:
        known = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if known is None else known

    def _row(self, path: tuple[Piece, ...]) -> Row | Answer:
        """The model's inputs for one path, batch dimension 1, or why it cannot be asked."""
        content, given, images = _content(path)
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        bos = self.tokenizer.bos_token
        options = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
        try:
            inputs = self.processor(text=[text], images=images or None, return_tensors="pt", **options)
        except ValueError as error:
            sizes = ", ".join(f"{image.width}x{image.height}" for image in images)
            return failed("not_applicable", f"images of {sizes} do not fit the model: {error}")
        row = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        for one in given:
            ids = self.tokenizer(one, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            row = _insert(row, int((row["input_ids"][0] == self.holder).nonzero()[0, 0]), ids)
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if longest and row["input_ids"].shape[1] > longest:
            return failed(
                "not_applicable",
                f"a text of {row['input_ids'].shape[1]} tokens is longer than the model takes ({longest})",
            )
        return row

    def _batches(self, rows: dict[int, Row]) -> list[list[int]]:
        """Indices of rows that go together: like shapes of everything but text, by length, within the token limit."""
        kinds: dict[tuple[Any, ...], list[int]] = {}
        for index, row in rows.items():
            shape = tuple((n, tuple(v.shape[1:])) for n, v in sorted(row.items()) if not _is_text(row, n))
            kinds.setdefault(shape, []).append(index)
        batches = []
        for members in kinds.values():
            members.sort(key=lambda i: -rows[i]["input_ids"].shape[1])
            size = max(1, self.tokens // rows[members[0]]["input_ids"].shape[1])
            batches += [members[start : start + size] for start in range(0, len(members), size)]
        return batches


def _content(path: tuple[Piece, ...]) -> tuple[list[dict[str, str]], list[str], list[Image.Image]]:
    """A path as the content of a chat message, with the texts and images that it holds; neighbouring texts are one."""
    content: list[dict[str, str]] = []
    given: list[str] = []
    images: list[Image.Image] = []
    for piece in path:
        if isinstance(piece, Image.Image):
            images.append(piece)
            content.append({"type": "image"})
            continue
        text = piece.text
        if isinstance(piece, Given):
            given.append(text)
            text = _HOLDER
        if content and content[-1]["type"] == "text":
            content[-1]["text"] += text
        else:
            content.append({"type": "text", "text": text})
    return content, given, images


def _is_text(row: Row, name: str) -> bool:
    """Whether an input has one value a token."""
    return row[name].shape == row["input_ids"].shape


def _insert(row: Row, at: int, ids: list[int]) -> Row:
    """The row with the token at `at` replaced by text tokens."""
    result = dict(row)
    for name, value in row.items():
        if _is_text(row, name):
            if name == "input_ids":
                middle = torch.tensor([ids], dtype=value.dtype)
            else:  # 1 in an attention mask, the type of text elsewhere: as the place holder had
                middle = value[:, at : at + 1].expand(-1, len(ids))
            result[name] = torch.cat([value[:, :at], middle, value[:, at + 1 :]], 1)
    return result


def _pad_right(rows: Sequence[Row], pad_id: int) -> tuple[Any, Tensor]:
    """Rows as one batch, and the index of each row's last token."""
    from transformers import BatchFeature

    lengths = torch.tensor([row["input_ids"].shape[1] for row in rows])
    longest = int(lengths.max())
    batch = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if _is_text(rows[0], name):
            fill = pad_id if name == "input_ids" else 0
            values = [pad(value, (0, longest - value.shape[1]), value=fill) for value in values]
        batch[name] = torch.cat(values)
    return BatchFeature(batch), lengths - 1
