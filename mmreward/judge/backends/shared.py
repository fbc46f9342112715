"""Prompts whose shared parts are computed once: images looked at, trees read, and one of two ways through the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmreward.judge.backends.backend import Sampling, Text
from mmreward.judge.backends.cached import Cached
from mmreward.judge.backends.families import Family, find_family
from mmreward.judge.backends.language import Language
from mmreward.judge.backends.packed import Packed
from mmreward.judge.backends.sharing import check_cache, check_mask
from mmreward.judge.backends.tree import Node, Reader, images_of
from mmreward.judge.backends.vision import Picture, Vision
from mmreward.judge.backends.words import Words, find_frame
from mmreward.judge.backends.writing import Writer
from mmreward.judge.labels import Answer, LabelIds
from mmreward.judge.prompt import Fixed, Prompt

__all__ = ["SharedTrees"]


class SharedTrees:
    """`layout`: "packed" or "cached", without it "packed" where the model takes it. Raises ValueError with the reason
    where neither is possible.
    """

    def __init__(self, model: Any, processor: Any, tokens: int, layout: str | None = None) -> None:
        family, frame = find_family(model, processor), find_frame(processor)
        if family is None:
            raise ValueError(f"models of type {model.config.model_type!r} are not known well enough to share prompts")
        if frame is None:
            raise ValueError("the chat template does more than put a frame around a message")
        self.language = Language(model)
        if not self.language.sees_all:
            raise ValueError("the language model does not see all earlier text in all its layers")
        if layout == "packed" and not self.language.takes_masks:
            raise ValueError("the attention of this model takes no 4-D mask; load it with attention 'sdpa'")
        self.layout = layout or ("packed" if self.language.takes_masks else "cached")
        self.vision = Vision(model, family)
        self.reader = Reader(Words(processor.tokenizer), frame, family, self.language.longest)
        self._check_tokens(processor)
        self._check_sharing(family)
        self.family = family
        self._way = (Packed if self.layout == "packed" else Cached)(self.language, tokens)
        self._writer = Writer(self.language, processor.tokenizer, tokens)

    def probabilities(self, prompts: Sequence[Prompt], labels: LabelIds) -> list[list[Answer]]:
        return self._way.probabilities(self._read(prompts), labels)

    def chances(
        self, prompts: Sequence[Prompt], pictures: Mapping[int, Picture], labels: LabelIds
    ) -> list[Tensor | None]:
        """For each prompt the probabilities [leaves, labels], with gradients to the features of `pictures` (by the id()
        of the images in the prompts); None where it cannot be asked.
        """
        trees = [self.reader.read(prompt, pictures) for prompt in prompts]
        good = [i for i, tree in enumerate(trees) if not any(end.failed for end in tree.ends())]
        found: list[Tensor | None] = [None] * len(trees)
        if good:
            some = [trees[i] for i in good]
            told = self._way.chances(some, labels).split([tree.leaves for tree in some])
            for i, own in zip(good, told, strict=True):
                found[i] = own
        return found

    def write(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[list[Text]]]:
        """For each prompt, for each leaf, a text for each pass."""
        return self._writer.write(self._read(prompts), sampling)

    def _read(self, prompts: Sequence[Prompt]) -> list[Node]:
        pictures = self.vision.look([image for prompt in prompts for image in images_of(prompt)])
        return [self.reader.read(prompt, pictures) for prompt in prompts]

    @torch.inference_mode()
    def _check_sharing(self, family: Family) -> None:
        """Raises ValueError where the model does not take what sharing rests on; texts are written from a cache in
        either layout.
        """
        prefix, branch = (self.reader.words.fixed(text) for text in ("Look at the image:\n", "What is it?"))
        check_cache(self.language, prefix, branch, family.axes)
        if self.layout == "packed":
            check_mask(self.language, prefix, branch, family.axes)

    @torch.inference_mode()
    def _check_tokens(self, processor: Any) -> None:
        """Raises ValueError where the processor writes other tokens than the reader does."""
        image = Image.new("RGB", (96, 64))
        content = [{"type": "text", "text": "Look:\n"}, {"type": "image"}, {"type": "text", "text": "What is it?"}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        pieces = (Fixed("Look:\n"), image, Fixed("What is it?"))
        if not self.reader.agrees(processor, self.vision.look([image]), pieces, text):
            raise ValueError("the processor writes other tokens into a message than it does for its parts")
