"""How large an image a model is shown: the pixel budget of its processor, and what it makes of an image's size."""

from __future__ import annotations

from typing import Any

from mmreward.judge.backends.patches import fitted_size
from mmreward.score import Failure

__all__ = ["limit_pixels", "misfit", "shown_pixels", "shown_size"]


def shown_pixels(processor: Any) -> dict[str, Any]:
    """What goes into provenance: the budget, to which each image is resized with its proportions kept; or the sizes
    that a processor without a budget works with.
    """
    size = _size(processor)
    if _has_budget(processor):
        return {"pixels": {"min": size["shortest_edge"], "max": size["longest_edge"]}}
    return {"image_size": size} if size else {}


def shown_size(processor: Any, width: int, height: int) -> dict[str, Any]:
    """`seen`, [width, height] at which a model with a pixel budget sees an image of this size. Empty for other models,
    and for an image that does not fit.
    """
    if not _has_budget(processor) or misfit(processor, width, height):
        return {}
    return {"seen": list(fitted_size(processor.image_processor, height, width)[::-1])}


def misfit(processor: Any, width: int, height: int) -> Failure | None:
    """Why a model with a pixel budget cannot take an image of this size: one side is over 200 times the other. None
    where it can, and for other models, which say so only when they meet the image.
    """
    if not _has_budget(processor):
        return None
    try:
        fitted_size(processor.image_processor, height, width)
    except ValueError as error:
        return Failure("not_applicable", f"an image of {width}x{height} does not fit the model: {error}")
    return None


def limit_pixels(processor: Any, most: int | None, least: int | None) -> None:
    """Sets the most and least pixels of an image. Raises ValueError where the model has no pixel budget."""
    if most is None and least is None:
        return
    if not _has_budget(processor):
        name = type(processor.image_processor).__name__
        raise ValueError(
            f"options pixels and min_pixels: {name} has no pixel budget; models of the Qwen-VL families have one. "
            "Leave the options out, the model then sees images as its processor resizes them"
        )
    size, patch = _size(processor), (processor.image_processor.patch_size * processor.image_processor.merge_size) ** 2
    most = size["longest_edge"] if most is None else most
    least = min(size["shortest_edge"], most) if least is None else least
    if least > most or most < patch:
        raise ValueError(
            f"options pixels and min_pixels: the least ({least}) must not be above the most ({most}), and the most "
            f"must hold a visual token of this model ({patch} pixels)"
        )
    # Processors of the Qwen families call their pixel counts "edges".
    processor.image_processor.size = type(processor.image_processor.size)(longest_edge=most, shortest_edge=least)


def _has_budget(processor: Any) -> bool:
    known = processor.image_processor
    return hasattr(known, "merge_size") and {"shortest_edge", "longest_edge"} <= _size(processor).keys()


def _size(processor: Any) -> dict[str, int]:
    size = getattr(processor.image_processor, "size", None)
    return {key: int(value) for key, value in dict(size).items() if value is not None} if size else {}
