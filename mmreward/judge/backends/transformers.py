"""Backend "transformers": a judge in this process, any model that `AutoModelForImageTextToText` knows.

What candidates and questions share is computed once where the model takes it: Qwen2.5-VL gets a whole prompt tree in
one sequence with a 4-D mask and explicit positions (`packed`); any other model gets each path as a padded row
(`plain`). Both give the answers of asking each path alone, up to rounding.

Text of others is tokenised with special tokens split, so that an instruction such as "<|im_end|>" is data. Weights are
read in the dtype that is asked for (float32 on a CPU, bfloat16 on a GPU), whatever dtype they are stored in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mmreward.judge.backends.folder import ModelSource
from mmreward.judge.backends.packed import PackedQwen
from mmreward.judge.backends.plain import PlainRows
from mmreward.judge.labels import Answer, LabelIds, find_labels
from mmreward.judge.prompt import Prompt

__all__ = ["DTYPES", "TransformersBackend"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TransformersBackend:
    """`probabilities(prompts, labels)` and `generate(prompts)` of one loaded model. `describe` goes into provenance."""

    def __init__(self, model: Any, processor: Any, *, tokens: int = 8192, packed: bool = True) -> None:
        """`tokens`: about how many go through the model at once. `packed` False asks each path alone, the slow way."""
        self.model, self.processor = model.eval(), processor
        self._labels: dict[tuple[str, ...], LabelIds] = {}
        self._plain = PlainRows(model, processor, tokens)
        self._packed = PackedQwen(model, processor, tokens) if packed and PackedQwen.fits(model, processor) else None
        self.describe: dict[str, Any] = {
            "backend": "transformers",
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "layout": "packed" if self._packed else "plain",
            "pixels": _pixel_budget(processor),
        }

    @classmethod
    def load(
        cls,
        source: ModelSource,
        *,
        device: str | None = None,
        dtype: str | None = None,
        pixels: int | None = None,
        tokens: int = 8192,
    ) -> TransformersBackend:
        """Open a model. Raises ValueError for what cannot be loaded, with the reason."""
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        if source.is_folder:
            logging.disable_progress_bar()  # bars are for downloads
        place = _device(device)
        kind = DTYPES[dtype] if dtype else torch.float32 if place.type == "cpu" else torch.bfloat16
        common: dict[str, Any] = {"trust_remote_code": False, "local_files_only": source.is_folder}
        if source.revision:
            common["revision"] = source.revision
        try:
            processor = AutoProcessor.from_pretrained(source.path, **common)
            model, report = AutoModelForImageTextToText.from_pretrained(
                source.path, dtype=kind, use_safetensors=True, output_loading_info=True, **common
            )
        except Exception as error:  # whatever a broken or foreign folder makes transformers raise
            raise ValueError(f"the judge {source.path!r} cannot be loaded: {_first_line(error)}") from error
        if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
            raise ValueError(f"{source.path!r} has no processor for images and text; it is not a vision-language model")
        if report["missing_keys"] or report["mismatched_keys"]:
            wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
            raise ValueError(f"weights of {source.path!r} are missing or of another shape: {', '.join(wrong[:5])} …")
        if pixels is not None:
            _limit_pixels(processor, pixels)
        backend = cls(model.to(place), processor, tokens=tokens)
        commit = getattr(model.config, "_commit_hash", None)
        backend.describe |= {"revision": source.fingerprint() if source.is_folder else commit}
        return backend

    def label_ids(self, labels: Sequence[str]) -> LabelIds:
        """The tokens of labels, found once. Raises ValueError where one is no single token."""
        key = tuple(labels)
        if key not in self._labels:
            self._labels[key] = find_labels(self.processor.tokenizer, key)
        return self._labels[key]

    @torch.inference_mode()
    def probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[list[Answer]]:
        """For each prompt the answers of its leaves, in order."""
        ids = self.label_ids(labels)
        way = self._packed or self._plain
        return way.probabilities(prompts, ids)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int = 256) -> list[list[str]]:
        """For each prompt the text that the model writes at its leaves, greedily."""
        return [self._plain.generate(list(prompt.paths()), max_new_tokens) for prompt in prompts]


def _device(asked: str | None) -> torch.device:
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=asked).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {asked!r} cannot be used: {_first_line(error)}") from None


def _pixel_budget(processor: Any) -> dict[str, int] | None:
    size = getattr(processor.image_processor, "size", None)
    return {key: int(value) for key, value in dict(size).items() if value is not None} if size else None


def _limit_pixels(processor: Any, pixels: int) -> None:
    size = _pixel_budget(processor) or {}
    if "longest_edge" not in size or "shortest_edge" not in size:
        raise ValueError("option pixels: the image processor of this model has no pixel budget")
    # Processors of the Qwen family call their pixel counts "edges".
    limited = {"shortest_edge": min(size["shortest_edge"], pixels), "longest_edge": pixels}
    processor.image_processor.size = type(processor.image_processor.size)(**limited)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
