"""A prompt tree as one sequence, for Qwen2.5-VL.

The nodes of a tree are written one after the other, depth first. A token sees the earlier tokens of its own node and
all tokens of the nodes above it (a 4-D mask); its M-RoPE position goes on from the end of the node above, as if nothing
lay between. So each path reads exactly as it would alone, and what paths share is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmreward.judge.labels import Answer, LabelIds, answers, failed
from mmreward.judge.prompt import Fixed, Given, Prompt

__all__ = ["PackedQwen"]


@dataclass(frozen=True)
class _Picture:
    """A decoded image's features [N, D] and its size in visual tokens, or why it cannot be used."""

    features: Tensor | None = None
    rows: int = 0
    columns: int = 0
    error: str | None = None


@dataclass
class _Row:
    """A tree as tokens: ids, M-RoPE positions (three numbers a token), the end of each token's subtree, features by
    their first token, and for each leaf the token whose successor is the answer, or the answer if there is none.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    reach: list[int] = field(default_factory=list)
    pictures: list[tuple[int, Tensor]] = field(default_factory=list)
    leaves: list[int | Answer] = field(default_factory=list)


class PackedQwen:
    """Answers of prompt trees by a Qwen2.5-VL model. `tokens`: about how many go through the model at once."""

    def __init__(self, model: Any, processor: Any, tokens: int) -> None:
        self.model, self.tokenizer, self.image_processor = model, processor.tokenizer, processor.image_processor
        self.tokens = tokens
        frame = _frame(processor)
        if frame is None:
            raise ValueError("the chat template does more than put a frame around the content; use plain rows")
        self.head, self.tail = frame
        config = model.config
        self.start, self.end, self.pad = config.vision_start_token_id, config.vision_end_token_id, config.image_token_id
        self.longest = config.text_config.max_position_embeddings
        self._fixed: dict[str, list[int]] = {}

    @staticmethod
    def fits(model: Any, processor: Any) -> bool:
        """Whether the model is of the family and its chat template only puts a frame around the content."""
        return model.config.model_type == "qwen2_5_vl" and _frame(processor) is not None

    def probabilities(self, prompts: Sequence[Prompt], labels: LabelIds) -> list[list[Answer]]:
        pictures = self._look([image for prompt in prompts for image in _images(prompt)])
        parts = [(number, part) for number, prompt in enumerate(prompts) for part in self._split(prompt, pictures)]
        rows = [self._row(part, pictures) for _, part in parts]
        found: list[list[Answer]] = [[] for _ in prompts]
        results: dict[int, list[Answer]] = {}
        for batch in _batches([len(row.ids) for row in rows], self.tokens):
            results |= zip(batch, self._run([rows[i] for i in batch], labels), strict=True)
        for index, (number, _) in enumerate(parts):
            found[number] += results[index]
        return found

    def _look(self, images: Sequence[Image.Image]) -> dict[int, _Picture]:
        """Features of each image by its id(); equal images are looked at once."""
        by_content: dict[tuple[Any, ...], list[int]] = {}
        unique: list[Image.Image] = []
        for image in images:
            known = by_content.setdefault((image.size, image.mode, image.tobytes()), [])
            if not known:
                unique.append(image)
            known.append(id(image))
        seen = [picture for start in range(0, len(unique), 256) for picture in self._see(unique[start : start + 256])]
        return {one: picture for ids, picture in zip(by_content.values(), seen, strict=True) for one in ids}

    def _see(self, images: Sequence[Image.Image]) -> list[_Picture]:
        try:
            inputs = self.image_processor(images=list(images), return_tensors="pt", disable_grouping=False)
        except ValueError as error:
            if len(images) == 1:
                return [
                    _Picture(error=f"an image of {images[0].width}x{images[0].height} does not fit the model: {error}")
                ]
            return [picture for image in images for picture in self._see([image])]
        inputs = inputs.to(self.model.device)
        counts = inputs["image_grid_thw"].prod(-1).tolist()
        merge = self.image_processor.merge_size
        pictures, first = [], 0
        for batch in _batches(counts, 16 * self.tokens, in_order=True):
            last = first + sum(counts[i] for i in batch)
            grids = inputs["image_grid_thw"][batch]
            features = self.model.model.get_image_features(inputs["pixel_values"][first:last], grids).pooler_output
            for one, (_, height, width) in zip(features, grids.tolist(), strict=True):
                pictures.append(_Picture(one, height // merge, width // merge))
            first = last
        return pictures

    def _split(self, prompt: Prompt, pictures: dict[int, _Picture]) -> Iterator[Prompt]:
        """The prompt, or parts of it with fewer branches each where it is longer than a batch."""
        lengths = [self._length(branch, pictures) for branch in prompt.branches]
        room = self.tokens - self._length(replace(prompt, branches=()), pictures)
        if sum(lengths) <= room or len(lengths) < 2:
            yield prompt
            return
        start, used = 0, 0
        for index, length in enumerate(lengths):
            if index > start and used + length > room:
                yield replace(prompt, branches=prompt.branches[start:index])
                start, used = index, 0
            used += length
        yield replace(prompt, branches=prompt.branches[start:])

    def _length(self, prompt: Prompt, pictures: dict[int, _Picture]) -> int:
        total = 0
        for piece in prompt.pieces:
            if isinstance(piece, Image.Image):
                total += pictures[id(piece)].rows * pictures[id(piece)].columns + 2
            else:
                total += len(self._ids(piece))
        return total + sum(self._length(branch, pictures) for branch in prompt.branches)

    def _ids(self, piece: Fixed | Given) -> list[int]:
        if isinstance(piece, Given):
            return self.tokenizer(piece.text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if piece.text not in self._fixed:
            self._fixed[piece.text] = self.tokenizer(piece.text, add_special_tokens=False)["input_ids"]
        return self._fixed[piece.text]

    def _row(self, prompt: Prompt, pictures: dict[int, _Picture]) -> _Row:
        row = _Row()
        self._write(replace(prompt, pieces=(Fixed(self.head), *prompt.pieces)), 0, row, pictures)
        return row

    def _write(self, prompt: Prompt, position: int, row: _Row, pictures: dict[int, _Picture]) -> None:
        """Append a node and those below it to the row; the node starts at `position`."""
        pieces = prompt.pieces if prompt.branches else (*prompt.pieces, Fixed(self.tail))
        bad = next((p.error for p in (pictures.get(id(piece)) for piece in pieces) if p and p.error), None)
        if bad:
            row.leaves += [failed("not_applicable", bad)] * prompt.leaves
            return
        first = len(row.ids)
        for piece in pieces:
            if isinstance(piece, Image.Image):
                picture = pictures[id(piece)]
                assert picture.features is not None
                row.pictures.append((len(row.ids) + 1, picture.features))
                row.ids += [self.start, *[self.pad] * (picture.rows * picture.columns), self.end]
                row.positions.append((position,) * 3)
                inside = position + 1
                row.positions += [
                    (inside, inside + y, inside + x) for y in range(picture.rows) for x in range(picture.columns)
                ]
                position = inside + max(picture.rows, picture.columns)
                row.positions.append((position,) * 3)
                position += 1
            else:
                ids = self._ids(piece)
                row.ids += ids
                row.positions += [(position + i,) * 3 for i in range(len(ids))]
                position += len(ids)
        row.reach += [0] * (len(row.ids) - first)
        own = len(row.ids)
        for branch in prompt.branches:
            self._write(branch, position, row, pictures)
        row.reach[first:own] = [len(row.ids)] * (own - first)
        if not prompt.branches:
            too_long = f"a text of {position} tokens is longer than the model takes ({self.longest})"
            row.leaves.append(own - 1 if position <= self.longest else failed("not_applicable", too_long))

    def _run(self, rows: Sequence[_Row], labels: LabelIds) -> list[list[Answer]]:
        device = self.model.device
        longest = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), longest), self.pad, device=device)
        positions = torch.zeros((3, len(rows), longest), dtype=torch.long, device=device)
        reach = torch.arange(1, longest + 1, device=device).repeat(len(rows), 1)  # padding sees itself alone
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids, device=device)
            positions[:, i, : len(row.ids)] = torch.tensor(row.positions, device=device).T
            reach[i, : len(row.ids)] = torch.tensor(row.reach, device=device)
        at = torch.arange(longest, device=device)
        mask = (at[:, None] >= at) & (at[:, None] < reach[:, None])
        inner = self.model.model
        embeds = inner.get_input_embeddings()(ids)
        for i, row in enumerate(rows):
            for first, features in row.pictures:
                embeds[i, first : first + len(features)] = features.to(embeds.dtype)
        hidden = inner.language_model(
            inputs_embeds=embeds, position_ids=positions, attention_mask=mask[:, None], use_cache=False
        ).last_hidden_state
        read = [(i, leaf) for i, row in enumerate(rows) for leaf in row.leaves if isinstance(leaf, int)]
        picked = hidden[[i for i, _ in read], [at for _, at in read]]
        told = iter(answers(labels.probabilities(self.model.lm_head(picked))) if read else [])
        return [[next(told) if isinstance(leaf, int) else leaf for leaf in row.leaves] for row in rows]


def _images(prompt: Prompt) -> Iterator[Image.Image]:
    yield from (piece for piece in prompt.pieces if isinstance(piece, Image.Image))
    for branch in prompt.branches:
        yield from _images(branch)


def _frame(processor: Any) -> tuple[str, str] | None:
    """What the chat template writes before and after a user's content, or None where it does more than that."""
    a, b = "first part", "second part"

    def render(*content: dict[str, str]) -> str:
        message = [{"role": "user", "content": list(content)}]
        return processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)

    head, found, tail = render({"type": "text", "text": a}).partition(a)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    mixed = render({"type": "text", "text": a}, {"type": "image"}, {"type": "text", "text": b})
    return (head, tail) if found and mixed == head + a + image + b + tail else None


def _batches(lengths: Sequence[int], limit: int, in_order: bool = False) -> Iterator[list[int]]:
    """Indices in batches of about `limit` in length, padding counted; by length unless `in_order`."""
    order = range(len(lengths)) if in_order else sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        if batch and longest * (len(batch) + 1) > limit:
            yield batch
            batch, longest = [], lengths[index]
        batch.append(index)
    if batch:
        yield batch
