"""Backend "transformers": a judge in this process, any model that `AutoModelForImageTextToText` knows.

What candidates and questions share is computed once where the model's family is known (see `families`), in one of
three layouts, which give the answers of asking each path alone, up to rounding:

- `packed`: a whole prompt tree in one sequence, where the model takes a 4-D mask;
- `cached`: level by level with a cache of what is above, otherwise;
- `plain`: each path a padded row, for models that are not known. The log says so.

Text of others is tokenised without control tokens, so that an instruction such as "<|im_end|>" is data. Weights are
read in the dtype that is asked for (float32 on a CPU, bfloat16 on a GPU), whatever dtype they are stored in.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from mmreward.hub import hub_folder
from mmreward.judge.backends.adapter import find_adapter, merge
from mmreward.judge.backends.backend import Sampling, Text
from mmreward.judge.backends.folder import ModelSource
from mmreward.judge.backends.pixels import limit_pixels, misfit, shown_pixels, shown_size
from mmreward.judge.backends.plain import PlainRows
from mmreward.judge.backends.shared import SharedTrees
from mmreward.judge.backends.tree import images_of
from mmreward.judge.labels import Answer, LabelIds, find_labels
from mmreward.judge.prompt import Prompt
from mmreward.quiet import quiet_loading
from mmreward.score import Failure

__all__ = ["DTYPES", "LAYOUTS", "TransformersBackend"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = ("packed", "cached", "plain")
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What is downloaded of a repository of the hub."""
_WAVE_PIXELS, _WAVE_PROMPTS = 32 << 20, 64

_log = logging.getLogger(__name__)


class TransformersBackend:
    """A `Backend` of one loaded model."""

    takes_prefix = True
    """A question may give the beginning of its answer."""

    def __init__(self, model: Any, processor: Any, *, tokens: int = 8192, layout: str | None = None) -> None:
        """`tokens`: about how many go through the model at once. `layout`: "packed", "cached" or "plain"; without it
        the first that the model takes. Raises ValueError where it does not take the one that is asked for.
        """
        self.model, self.processor = model.eval(), processor
        self._labels: dict[tuple[str, ...], LabelIds] = {}
        self.shared = None if layout == "plain" else _shared(model, processor, tokens, layout)
        self._way = self.shared or PlainRows(model, processor, tokens)
        self.describe: dict[str, Any] = {
            "backend": "transformers",
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "layout": self.shared.layout if self.shared else "plain",
            "given_text": "special tokens split",
            **shown_pixels(processor),
        }

    @classmethod
    def load(
        cls,
        source: ModelSource,
        *,
        adapter: str | Path | None = None,
        device: str | None = None,
        dtype: str | None = None,
        pixels: int | None = None,
        min_pixels: int | None = None,
        tokens: int = 8192,
        layout: str | None = None,
    ) -> TransformersBackend:
        """Open a model, with a LoRA adapter merged into it where one is given (or is the source itself). `pixels` and
        `min_pixels`: most and least pixels of an image. Raises ValueError for what cannot be loaded, with the reason.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        chosen = adapter or source.adapter
        found = find_adapter(chosen) if chosen else None
        place = _device(device)
        kind = DTYPES[dtype] if dtype else torch.float32 if place.type == "cpu" else torch.bfloat16
        folder = Path(source.path) if source.is_folder else hub_folder(source.path, source.revision, _FILES)
        common: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        try:
            with quiet_loading():
                processor = AutoProcessor.from_pretrained(folder, **common)
                model, report = AutoModelForImageTextToText.from_pretrained(
                    folder, dtype=kind, use_safetensors=True, output_loading_info=True, **common
                )
        except Exception as error:  # whatever a broken or foreign folder makes transformers raise
            raise ValueError(f"the judge {source.path!r} cannot be loaded: {_first_line(error)}") from error
        if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
            raise ValueError(f"{source.path!r} has no processor for images and text; it is not a vision-language model")
        _check_weights(source.path, report)
        limit_pixels(processor, pixels, min_pixels)
        if found:
            model = merge(model, found)
        model = model.to(place).requires_grad_(False)  # gradients go to pixels, see mmreward.judge.differentiable
        backend = cls(model, processor, tokens=tokens, layout=layout)
        backend.describe |= {"revision": source.fingerprint() if source.is_folder else folder.name}
        if found:
            backend.describe |= {"adapter": found.fingerprint()}
        return backend

    def shown_size(self, width: int, height: int) -> dict[str, Any]:
        """What becomes of an image of this size, for provenance: `seen`, [width, height] in the model, or for models
        that cut it into tiles, once they have seen one, `tiles`, their number, and `tile`, [width, height] of each.
        """
        if self.shared and (cut := self.shared.vision.tiles.get((width, height))):
            return {"tiles": cut[0], "tile": list(cut[1:])}
        return shown_size(self.processor, width, height)

    def misfit(self, width: int, height: int) -> Failure | None:
        """Why the model cannot take an image of this size, where its size alone says so."""
        return misfit(self.processor, width, height)

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raises ValueError where a label is no single token, or two are the same."""
        self.label_ids(labels)

    def label_ids(self, labels: Sequence[str]) -> LabelIds:
        """The tokens of labels, found once. Raises ValueError as `check_labels` does."""
        key = tuple(labels)
        if key not in self._labels:
            self._labels[key] = find_labels(self.processor.tokenizer, key)
        return self._labels[key]

    @torch.inference_mode()
    def probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[list[Answer]]:
        """For each prompt the answers of its leaves, in order."""
        ids = self.label_ids(labels)
        return [row for wave in _waves(prompts) for row in self._way.probabilities(wave, ids)]

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[list[Text]]]:
        """For each prompt, for each leaf, what the model writes in each pass. Of the drawing only
        temperature, nucleus (`top_p`) and `top_k` count, not the penalties that a model's folder suggests. A schema is
        ignored.
        """
        return [row for wave in _waves(prompts) for row in self._way.write(wave, sampling)]


def _shared(model: Any, processor: Any, tokens: int, layout: str | None) -> SharedTrees | None:
    """How prompts of this model share what they share; None, after saying so, where they cannot."""
    if layout is not None and layout not in LAYOUTS:
        from mmreward.reward import unknown

        raise unknown("layout", layout, LAYOUTS)
    try:
        return SharedTrees(model, processor, tokens, layout)
    except ValueError as error:
        if layout is not None:
            raise
        _log.warning("each question is asked alone, which is slower (layout plain): %s", error)
        return None


def _waves(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """Prompts in parts, so that not all images and features are in memory at once."""
    wave: list[Prompt] = []
    pixels = 0
    for prompt in prompts:
        own = sum(image.width * image.height for image in {id(i): i for i in images_of(prompt)}.values())
        if wave and (pixels + own > _WAVE_PIXELS or len(wave) >= _WAVE_PROMPTS):
            yield wave
            wave, pixels = [], 0
        wave.append(prompt)
        pixels += own
    if wave:
        yield wave


def _check_weights(path: str, report: dict[str, Any]) -> None:
    wrong = {
        what: sorted(map(str, report.get(f"{what}_keys") or ())) for what in ("missing", "mismatched", "unexpected")
    }
    problems = [f"{what}: {', '.join(keys[:5])}{' …' if len(keys) > 5 else ''}" for what, keys in wrong.items() if keys]
    if problems:
        raise ValueError(f"the weights of {path!r} are not those of its model; {'; '.join(problems)}")


def _device(asked: str | None) -> torch.device:
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=asked).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {asked!r} cannot be used: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
