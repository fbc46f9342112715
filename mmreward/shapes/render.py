"""Pixels of a scene: anti-aliased shapes on a plain, gradient, striped or dotted background.

Everything scales with the image size; at the default 64 pixels a place is 21 1/3 pixels wide, a small shape has a
radius of 6.2 and a large one of 9.2 pixels. Images are uint8 RGB [H, W, 3].
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mmreward.shapes.scene import BACKGROUND_COLOURS, COLOURS, Background, Scene

__all__ = ["RADII", "coverage", "ground", "render"]

RADII = {"small": 0.29, "large": 0.43}
"""Radius of a shape's circumscribed circle, in widths of a place."""
_SAMPLES = 4  # sub-pixels a side, for anti-aliasing


def render(scene: Scene, size: int = 64) -> np.ndarray:
    """The image of a scene, uint8 [size, size, 3].

    >>> render(Scene((), Background("plain", "grey"))).shape
    (64, 64, 3)
    """
    image = ground(scene.background, size).copy()
    for shape in scene.shapes:
        alpha, rows, columns = coverage(shape.shape, shape.size, shape.place, shape.jitter, size)
        patch = image[rows, columns]
        patch += alpha[..., None] * (np.asarray(COLOURS[shape.colour], dtype=np.float32) - patch)
    return (image + 0.5).astype(np.uint8)


@lru_cache(maxsize=256)
def ground(background: Background, size: int) -> np.ndarray:
    """The background alone, float32 [size, size, 3] in 0..255. Shared: do not write into it."""
    colour = np.asarray(BACKGROUND_COLOURS[background.colour], dtype=np.float32)
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) * (64 / size)
    match background.kind:
        case "plain":
            shade = np.zeros_like(x)
        case "gradient":
            shade = (y / 64 - 0.5) * 56
        case "striped":
            shade = 18 * np.clip(3 * np.sin(2 * np.pi * (x + y) / 10), -1, 1)
        case "dotted":
            distance = np.hypot((x + 4) % 8 - 4, (y + 4) % 8 - 4)
            shade = 12 - 44 * np.clip(2.8 - distance, 0, 1)
        case kind:
            raise ValueError(f"unknown kind of background {kind!r}")
    return np.clip(colour + shade[..., None], 0, 255)


@lru_cache(maxsize=8192)
def coverage(
    name: str, size_name: str, place: int, jitter: tuple[int, int], size: int
) -> tuple[np.ndarray, slice, slice]:
    """How much of each pixel a shape covers: float32 [h, w] in [0, 1], and the rows and columns it stands in."""
    pitch, unit = size / 3, size / 64
    centre_y = (place // 3 + 0.5) * pitch + jitter[0] * unit
    centre_x = (place % 3 + 0.5) * pitch + jitter[1] * unit
    radius = RADII[size_name] * pitch
    top, left = max(int(centre_y - radius - 1), 0), max(int(centre_x - radius - 1), 0)
    bottom, right = min(int(centre_y + radius + 2), size), min(int(centre_x + radius + 2), size)
    steps = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    y = ((np.arange(top, bottom)[:, None] + steps).ravel() - centre_y) / radius
    x = ((np.arange(left, right)[:, None] + steps).ravel() - centre_x) / radius
    inside = _inside(name, y[:, None], x[None, :]).astype(np.float32)
    alpha = inside.reshape(bottom - top, _SAMPLES, right - left, _SAMPLES).mean(axis=(1, 3))
    return alpha, slice(top, bottom), slice(left, right)


def _inside(name: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Whether points (in radii from the centre, y down) lie in the shape."""
    match name:
        case "circle":
            return x * x + y * y <= 0.92**2
        case "square":
            return np.maximum(np.abs(x), np.abs(y)) <= 0.78
        case "triangle":
            return (y <= 0.72) & (y >= -0.95 + 1.75 * np.abs(x))
        case "diamond":
            return np.abs(x) / 0.78 + np.abs(y) <= 1.0
        case "cross":
            return (np.minimum(np.abs(x), np.abs(y)) <= 0.29) & (np.maximum(np.abs(x), np.abs(y)) <= 0.95)
        case "star":
            return _inside_star(y, x)
    raise ValueError(f"unknown shape {name!r}")


def _inside_star(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A five-pointed star with its first point up: outer radius 1, inner radius 0.42."""
    inner = 0.42
    sector = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    distance = np.hypot(x, y)
    # The edge runs from the point (1, angle 0) to the notch (inner, angle pi / 5).
    px, py = distance * np.cos(angle), distance * np.sin(angle)
    qx, qy = inner * np.cos(sector), inner * np.sin(sector)
    return (qx - 1) * py - qy * (px - 1) >= 0
