"""Each path of a prompt as a row of its own, padded in batches: the way that works for any vision-language model.

The model's own chat template and processor write the row, its own forward and `generate` answer. Text of others, and
our text at the start of a branch, goes in by a place holder, a token that the model has never seen, and is put in its
place as token ids; text of others never passes the template.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from mmreward.judge.backends.backend import Sampling, Text
from mmreward.judge.backends.batches import attempt, out_of_memory
from mmreward.judge.backends.pixels import misfit
from mmreward.judge.backends.sampling import as_text, luck, passes, pick, stops
from mmreward.judge.backends.words import Words
from mmreward.judge.labels import Answer, LabelIds, answers, failed, failed_by
from mmreward.judge.prompt import Fixed, Given, Piece, Prompt

__all__ = ["PlainRows"]

_HOLDER = "<|mmreward_given_text|>"
_TOO_MUCH = failed_by(out_of_memory("the prompt"))

Row = dict[str, Tensor]
Path = tuple[tuple[Piece, ...], ...]
"""The pieces of each node from root to leaf."""


class PlainRows:
    """Answers of prompts, one row a path. `tokens`: about how many go through the model at once."""

    def __init__(self, model: Any, processor: Any, tokens: int) -> None:
        from tokenizers import AddedToken

        self.model, self.processor, self.tokens = model, processor, tokens
        self.tokenizer = processor.tokenizer
        self.tokenizer.add_tokens([AddedToken(_HOLDER, special=True, normalized=False)], special_tokens=True)
        self.holder = self.tokenizer.convert_tokens_to_ids(_HOLDER)
        self.words = Words(self.tokenizer)
        self.ending = stops(model, self.tokenizer)

    def probabilities(self, prompts: Sequence[Prompt], labels: LabelIds) -> list[list[Answer]]:
        def ask(rows: Sequence[Row]) -> list[Answer]:
            inputs, last = _pad_right(rows, self._pad_id)
            logits = self.model(**inputs.to(self.model.device)).logits
            return answers(labels.probabilities(logits[torch.arange(len(rows)), last]))

        rows = self._rows(prompts)
        found: dict[int, Answer] = {i: row for i, row in rows.items() if isinstance(row, Answer)}
        good = {i: row for i, row in rows.items() if not isinstance(row, Answer)}
        for batch in self._batches(good):
            for i, answer in zip(batch, attempt(ask, [good[i] for i in batch]), strict=True):
                found[i] = answer or _TOO_MUCH
        answered = iter(found[i] for i in range(len(rows)))
        return [[next(answered) for _ in range(prompt.leaves)] for prompt in prompts]

    def write(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[list[Text]]]:
        """For each prompt, for each leaf, a text for each pass."""
        rows, count = self._rows(prompts), passes(sampling)
        found = {i: [_unwritten(row)] * sampling.passes for i, row in rows.items() if isinstance(row, Answer)}
        good = {i: row for i, row in rows.items() if not isinstance(row, Answer)}
        for batch in self._batches(good, exact=True):
            written = attempt(lambda some: self._generate(some, sampling), [good[i] for i in batch])
            for i, texts in zip(batch, written, strict=True):
                texts = texts or [_unwritten(_TOO_MUCH)] * count
                found[i] = texts if count == sampling.passes else texts * sampling.passes
        texts_of_leaves = iter(found[i] for i in range(len(rows)))
        return [[next(texts_of_leaves) for _ in range(prompt.leaves)] for prompt in prompts]

    def _generate(self, rows: Sequence[Row], sampling: Sampling) -> list[list[Text]]:
        """Texts of rows of one shape, `passes` after each."""
        from transformers import GenerationConfig, LogitsProcessorList

        count, start = passes(sampling), rows[0]["input_ids"].shape[1]
        inputs = {n: torch.cat([row[n] for row in rows for _ in range(count)]).to(self.model.device) for n in rows[0]}
        config = GenerationConfig(
            do_sample=False,  # the processor below draws, and leaves one token
            max_new_tokens=sampling.max_new_tokens,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=sorted(self.ending) or None,
            pad_token_id=self._pad_id,
        )
        drawn = _Drawn(luck(sampling).repeat(len(rows), 1), start, sampling)
        told = self.model.generate(**inputs, generation_config=config, logits_processor=LogitsProcessorList([drawn]))
        broken = drawn.broken.tolist() if drawn.broken is not None else [False] * len(told)
        texts = [
            _unwritten(failed("parse_error", "the model's output is not finite (NaN or infinity)"))
            if bad
            else as_text(self.tokenizer, ids, self.ending)
            for ids, bad in zip(told[:, start:].tolist(), broken, strict=True)
        ]
        return [texts[i * count : (i + 1) * count] for i in range(len(rows))]

    @property
    def _pad_id(self) -> int:
        known = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if known is None else known

    def _rows(self, prompts: Sequence[Prompt]) -> dict[int, Row | Answer]:
        paths = (pair for prompt in prompts for pair in zip(_paths(prompt), prompt.beginnings(), strict=True))
        return dict(enumerate(self._row(path, beginning) for path, beginning in paths))

    def _row(self, path: Path, beginning: str) -> Row | Answer:
        """The model's inputs for one path whose answer begins with `beginning`, batch dimension 1, or why it cannot be
        asked.
        """
        content, held, images = _content(path)
        for image in images:
            if failure := misfit(self.processor, *image.size):
                return failed_by(failure)
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        text += beginning
        bos = self.tokenizer.bos_token
        options = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
        try:
            inputs = self.processor(text=[text], images=images or None, return_tensors="pt", **options)
        except Exception as error:  # whatever an odd image, or another version of the library, makes it raise
            sizes = ", ".join(f"{image.width}x{image.height}" for image in images)
            return failed("error", f"the processor failed at images of {sizes}: {type(error).__name__}: {error}")
        row = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        for one in held:
            ids = self.words.given(one.text) if isinstance(one, Given) else self.words.fixed(one.text)
            row = _insert(row, int((row["input_ids"][0] == self.holder).nonzero()[0, 0]), ids)
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if longest and row["input_ids"].shape[1] > longest:
            return failed(
                "not_applicable",
                f"a text of {row['input_ids'].shape[1]} tokens is longer than the model takes ({longest})",
            )
        return row

    def _batches(self, rows: dict[int, Row], exact: bool = False) -> list[list[int]]:
        """Indices of rows that go together: like shapes of everything but text (of text too where `exact`), by length,
        within the token limit.
        """
        kinds: dict[tuple[Any, ...], list[int]] = {}
        for index, row in rows.items():
            shape = tuple((n, tuple(v.shape[1:])) for n, v in sorted(row.items()) if exact or not _is_text(row, n))
            kinds.setdefault((*shape, *(len(v) for n, v in sorted(row.items()) if exact)), []).append(index)
        found = []
        for members in kinds.values():
            members.sort(key=lambda i: -rows[i]["input_ids"].shape[1])
            size = max(1, self.tokens // rows[members[0]]["input_ids"].shape[1])
            found += [members[start : start + size] for start in range(0, len(members), size)]
        return found


class _Drawn:
    """A logits processor of transformers that leaves the token that was drawn for each row."""

    def __init__(self, numbers: Tensor, start: int, sampling: Sampling) -> None:
        self.numbers, self.start, self.sampling = numbers, start, sampling
        self.broken: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        bad = (scores.isnan() | scores.isposinf()).any(-1)  # minus infinity is a token that may not come
        self.broken = bad if self.broken is None else self.broken | bad
        chosen = pick(scores, self.numbers[:, input_ids.shape[1] - self.start].to(scores.device), self.sampling)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


def _unwritten(answer: Answer) -> Text:
    return Text(status=answer.status, error=answer.error)


def _paths(prompt: Prompt, before: Path = ()) -> Iterator[Path]:
    path = (*before, prompt.pieces) if prompt.pieces else before
    if not prompt.branches:
        yield path
    for branch in prompt.branches:
        yield from _paths(branch, path)


def _content(path: Path) -> tuple[list[dict[str, str]], list[Fixed | Given], list[Image.Image]]:
    """A path as the content of a chat message, the texts that go in by place holders, and the images; neighbouring
    texts are one.
    """
    content: list[dict[str, str]] = []
    held: list[Fixed | Given] = []
    images: list[Image.Image] = []
    for depth, node in enumerate(path):
        starts = depth > 0
        for piece in _joined(node):
            if isinstance(piece, Image.Image):
                images.append(piece)
                content.append({"type": "image"})
                starts = False
                continue
            text = piece.text
            if starts or isinstance(piece, Given):
                held.append(piece)
                text = _HOLDER
            starts = False
            if content and content[-1]["type"] == "text":
                content[-1]["text"] += text
            else:
                content.append({"type": "text", "text": text})
    return content, held, images


def _joined(node: Sequence[Piece]) -> Iterator[Piece]:
    """The pieces of a node, neighbouring texts of ours as one."""
    for ours, some in groupby(node, key=lambda piece: isinstance(piece, Fixed)):
        if ours:
            yield Fixed("".join(piece.text for piece in some if isinstance(piece, Fixed)))
        else:
            yield from some


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
