"""Arrays as images.

- numpy: [H, W, 3], [H, W] or [H, W, 1] (grey), [H, W, 4] (with transparency);
- torch: [3, H, W], [H, W], [1, H, W] or [4, H, W], on any device.

Values are uint8, floating-point numbers in [0, 1] (v becomes round(255 v)), or bool (for masks). Anything else is
refused, since a guess about axes or scale would be scored as an edit.
"""

__all__ = ["from_array", "is_array"]

import sys
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmreward.images.error import ImageError

if TYPE_CHECKING:
    import numpy as np

CHANNELS = (1, 3, 4)
_ROUNDING = 1e-6
"""What resizing in float32 may leave beyond [0, 1]."""


def is_array(value: object) -> bool:
    """Whether `value` is a numpy array or a torch tensor; imports neither."""
    return _is_of("numpy", "ndarray", value) or _is_of("torch", "Tensor", value)


def from_array(array: Any, place: str) -> Image.Image:
    """`array` as an image of mode L, RGB or RGBA. Raises `ImageError`, which calls the array `place`."""
    import numpy as np

    is_torch = _is_of("torch", "Tensor", array)
    shape = tuple(array.shape)
    _check_shape(shape, is_torch, place)
    if is_torch:
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    pixels = _eight_bit(np.asarray(array), place)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def _is_of(module: str, name: str, value: object) -> bool:
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _check_shape(shape: tuple[int, ...], is_torch: bool, place: str) -> None:
    expected = "a torch image is [3, H, W]" if is_torch else "a numpy image is [H, W, 3] or [H, W]"
    if 0 in shape:
        raise ImageError(f"{place} is empty: an array of shape {list(shape)}")
    if len(shape) == 2:
        return
    if len(shape) != 3:
        hint = "; give one image of the batch" if len(shape) == 4 else ""
        raise ImageError(f"{place} is an array of shape {list(shape)}; {expected}{hint}")
    here, there = (shape[0], shape[2]) if is_torch else (shape[2], shape[0])
    if here == there == 3:
        raise ImageError(
            f"{place} is an array of shape {list(shape)}, whose first and last axis may both be the colours; "
            "give a PIL image"
        )
    if here not in CHANNELS:
        turn = "permute(2, 0, 1)" if is_torch else "transpose(1, 2, 0)"
        hint = f"; turn it by .{turn}" if there in CHANNELS else ""
        raise ImageError(f"{place} is an array of shape {list(shape)}; {expected}{hint}")


def _eight_bit(values: "np.ndarray[Any, Any]", place: str) -> "np.ndarray[Any, Any]":
    import numpy as np

    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind != "f":
        raise ImageError(f"{place} is an array of {values.dtype}; give uint8, or floating-point numbers in [0, 1]")
    low, high = float(values.min()), float(values.max())
    if not (-_ROUNDING <= low and high <= 1 + _ROUNDING):  # also for NaN
        hint = "; divide by 255" if 1 < high <= 255 and low >= 0 else ""
        raise ImageError(f"{place} is an array with values from {low:g} to {high:g}; they must lie in [0, 1]{hint}")
    return np.rint(values.clip(0, 1).astype(np.float32) * np.float32(255)).astype(np.uint8)
