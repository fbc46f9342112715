"""Is an edit inside what a model was made for?

A model's card names its domain. The bundled models know the shapes world only: on a photo they would answer with a
number that means nothing, so they answer `not_applicable` instead. The check looks at the source image alone, which
no editor can move.
"""

__all__ = ["ANY", "DOMAINS", "check"]

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

from mmreward.edit import Edit

ANY = "any"
_MAX_RESIDUAL = 0.07
"""A source of the shapes world lies this close to its own rendering; it leaves room for JPEG and resizing."""


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
    image = edit.image("source")
    if _shows_shapes(image.size, image.tobytes()):
        return None
    return (
        "the source is not an image of the shapes world, and this model knows nothing else; for photos use a model "
        "such as vlm:Qwen/Qwen2.5-VL-7B-Instruct or clip:ViT-B-32/laion2b_s34b_b79k, or add ?domain=any to insist"
    )


@lru_cache(maxsize=1024)
def _shows_shapes(size: tuple[int, int], pixels: bytes) -> bool:
    from mmreward.shapes import read

    width, height = size
    if not 0.98 <= width / height <= 1.02 or min(size) < 32:
        return False
    (reading,) = read([Image.fromarray(np.frombuffer(pixels, dtype=np.uint8).reshape(height, width, 3))])
    return reading.scene is not None and reading.residual <= _MAX_RESIDUAL


DOMAINS: dict[str, Callable[[Edit], str | None]] = {ANY: lambda edit: None, "shapes": _shapes}
