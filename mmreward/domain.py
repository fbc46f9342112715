"""Whether an edit lies in what a model was made for.

A model's card names its domain. The bundled models know the shapes world only: on a photo they would answer with a
number that means nothing, so they answer `not_applicable` instead. The check looks at the source image alone, which
no editor can move.
"""

__all__ = ["ANY", "DOMAINS", "check"]

from collections.abc import Callable

from PIL import Image

from mmreward.edit import Edit

ANY = "any"
_MAX_RESIDUAL = 0.07
"""A source of the shapes world lies this close to its own rendering; it leaves room for JPEG and resizing."""
_KEPT = 1024

_shows_shapes: dict[str, bool] = {}
"""Answers by `Edit.group`, for the candidates of one source and for the members of a combination. No pixels."""


def check(domain: str, edit: Edit) -> str | None:
    """None where the edit lies in the domain, else why not and what to use instead.

    Raises `ImageError` for a source that cannot be opened, `ValueError` for a domain that does not exist.

    >>> check("any", Edit(instruction="make it warmer", source="photo.jpg", edited="edited.jpg")) is None
    True
    """
    if domain not in DOMAINS:
        raise ValueError(f"unknown domain {domain!r}; there are {sorted(DOMAINS)}")
    return DOMAINS[domain](edit)


def _shapes(edit: Edit) -> str | None:
    if _has_shape_size(edit.image("source").size) and _known_shapes(edit):
        return None
    return (
        "the source is not an image of the shapes world, and this model knows nothing else; for photos use a model "
        "such as vlm:Qwen/Qwen2.5-VL-7B-Instruct or clip:ViT-B-32/laion2b_s34b_b79k, or add ?domain=any to insist"
    )


def _has_shape_size(size: tuple[int, int]) -> bool:
    """Images of the shapes world are square; most photos are refused by that, unread."""
    width, height = size
    return 0.98 <= width / height <= 1.02 and min(size) >= 32


def _known_shapes(edit: Edit) -> bool:
    known = _shows_shapes.get(edit.group)
    if known is None:
        known = _reads_as_shapes(edit.image("source"))
        if len(_shows_shapes) >= _KEPT:
            _shows_shapes.clear()
        _shows_shapes[edit.group] = known
    return known


def _reads_as_shapes(image: Image.Image) -> bool:
    from mmreward.shapes import read

    (reading,) = read([image])
    return reading.scene is not None and reading.residual <= _MAX_RESIDUAL


DOMAINS: dict[str, Callable[[Edit], str | None]] = {ANY: lambda edit: None, "shapes": _shapes}
