"""Images for pages: lossless PNG data, letterboxing, and the difference map.

The difference map is computed from the original pixels, here on the server, never from what a browser was sent:
for 8-bit RGB images a and b it is max over the channels of |a - b|, painted from white (no difference) over orange to
dark red on a square-root scale, so that small differences can be seen and no hue pair is confused by colour-blind eyes.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

__all__ = ["data_url", "difference_map", "enlarge", "letterbox", "match"]

_STOPS = np.array([[255, 255, 255], [254, 224, 182], [241, 140, 40], [179, 40, 20], [70, 5, 20]], dtype=np.float32)


def data_url(image: Image.Image, *, longest: int | None = None) -> str:
    """The image as a PNG data URL; scaled down first if its longest side passes `longest`."""
    if longest is not None and max(image.size) > longest:
        image = image.copy()
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def enlarge(image: Image.Image, smallest: int = 256) -> Image.Image:
    """Small images scaled up by a whole factor with hard pixels, so that browsers do not blur them."""
    factor = smallest // max(image.size)
    if factor < 2:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def letterbox(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image fitted into `size` (width, height), centred on mid-grey; its aspect ratio is kept."""
    if image.size == size:
        return image
    scale = min(size[0] / image.width, size[1] / image.height)
    fitted = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGB", size, (128, 128, 128))
    canvas.paste(fitted, ((size[0] - fitted.width) // 2, (size[1] - fitted.height) // 2))
    return canvas


def match(source: Image.Image, edited: Image.Image) -> tuple[Image.Image, str | None]:
    """The edited image at the source's size, and a sentence that says what was done to it (None: nothing)."""
    if edited.size == source.size:
        return edited, None
    said = f"the edit is {edited.width}x{edited.height}, the source {source.width}x{source.height}: "
    ratio = (edited.width / edited.height) / (source.width / source.height)
    if abs(ratio - 1.0) <= 0.02:
        return edited.resize(source.size, Image.Resampling.LANCZOS), said + "shown resized"
    return letterbox(edited, source.size), said + "shown letterboxed, the difference map includes the bars"


def difference_map(source: Image.Image, edited: Image.Image) -> tuple[Image.Image, float]:
    """The painted difference of two RGB images of one size, and the share of pixels that differ by more than 8/255."""
    a = np.asarray(source.convert("RGB"), dtype=np.int16)
    b = np.asarray(edited.convert("RGB"), dtype=np.int16)
    if a.shape != b.shape:
        raise ValueError(f"difference_map needs images of one size; got {source.size} and {edited.size}: use match()")
    difference = np.abs(a - b).max(axis=-1)
    position = np.sqrt(difference / 255.0) * (len(_STOPS) - 1)
    low = np.minimum(position.astype(np.int64), len(_STOPS) - 2)
    weight = (position - low)[..., None]
    painted = _STOPS[low] * (1 - weight) + _STOPS[low + 1] * weight
    return Image.fromarray(painted.round().astype(np.uint8), "RGB"), float((difference > 8).mean())
