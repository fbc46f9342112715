"""Reading a scene back from pixels, by analysis through synthesis.

1. Images and templates are smoothed by about a pixel, so that JPEG, resampling and noise matter little.
2. Background: each of the 24 backgrounds is compared with the image place by place, textures (half of them) also at
   half and quarter strength, as blur leaves them: 48 images. At least four places hold no shape, so the mean squared
   error of the best four decides.
3. Places: every shape, size, shift of up to two pixels and colour is tried against what the background leaves
   unexplained. With coverage a, colour minus background e and residual d the squared error falls by
   2 <a d, e> - <a^2 e, e>; the largest fall wins, if it explains enough of the residual.
4. The scene that was read is rendered; how far the image is from that, in its worst place, is artefact.
5. Where that is far, the image may be blurred so much that a diamond looks like a star at the sharpness of the
   templates. It is read again with softer templates, and of the scenes that come out the one counts whose rendering,
   softened as much as fits best, is nearest to the image.

Steps 1-3 are matrix products over a batch: about a millisecond an image, three for one that is read again.

**How exact this is.** The scene of an image that is a rendering is read without an error, up to shifts of two pixels;
so it is for flaws of the scene. What artefacts destroy cannot be read back: see `mmreward.shapes.oracle` for the error
in numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from mmreward.shapes.render import coverage, ground, render
from mmreward.shapes.scene import BACKGROUND_COLOURS, BACKGROUND_KINDS, COLOURS, SHAPES, SIZES, Background, Scene, Shape

__all__ = ["READING", "Reading", "place_slices", "read", "residual"]

READING = 2
"""How scenes are read, for the provenance of the oracle; 1 read no image again and misread a third of the blurred."""

_SIZE = 64
_SMOOTH = 2
"""Passes of `_smooth` for images and templates: a deviation of one pixel."""
_SHIFTS = tuple((y, x) for y in range(-2, 3) for x in range(-2, 3))
_EXPLAINED = 0.4
"""A shape is there if it explains at least this share of a place's residual."""
_FAINT = 1.0
"""… and at least this much squared error (pixel values in [0, 1], summed over a place)."""
_NO_BACKGROUND = 0.12
"""Root mean square error (smoothed) of the four best places above which no background of this world is there."""
_NO_SCENE = 0.2
"""Root mean square error of the whole image, smoothed or as it is, above which no scene explains it."""
_FADED = (1.0, 0.5, 0.25)
"""Strengths at which the texture of a background is looked for."""
_DAMAGED = 0.07
"""Residual above which an image is read again with softer templates: that of the least quality of a success."""
_SOFTER = (2, 6)
"""Passes of `_smooth` that such templates have beyond those of the image: deviations of 1 and 1.7 pixels."""
_BLURS = (1, 1, 2, 2, 4)
"""Steps, in passes, by which a rendering is softened to see which blur fits: deviations up to 2.2 pixels."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an image shows.

    scene: the scene that explains the image best, or None where none does (the image is unreadable).
    residual: root mean square difference to its rendering in the worst place, in [0, 1]; NaN without a scene.
    """

    scene: Scene | None
    residual: float


def read(images: np.ndarray | Sequence[np.ndarray | Image.Image]) -> list[Reading]:
    """Read images: uint8 [N, H, W, 3] or a sequence of such images or PIL images; any size, compared at 64x64.

    >>> scene = Scene((Shape("star", "red", "large", 4),), Background("striped", "navy"))
    >>> read([render(scene)])[0].scene == scene
    True
    """
    if len(images) == 0:
        return []
    native = np.stack([_at_native_size(image) for image in images])
    return [reading for start in range(0, len(native), 256) for reading in _readings(native[start : start + 256])]


def residual(image: np.ndarray, rendered: np.ndarray) -> float:
    """Root mean square difference of two uint8 [64, 64, 3] images in the worst of the nine places, in [0, 1]."""
    squared = np.square((image.astype(np.float32) - rendered.astype(np.float32)) / 255)
    return float(np.sqrt(max(np.mean(squared[cell]) for cell in place_slices())))


def place_slices(size: int = _SIZE) -> list[tuple[slice, slice]]:
    """Rows and columns of the nine places."""
    edges = [round(i * size / 3) for i in range(4)]
    spans = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
    return [(rows, columns) for rows in spans for columns in spans]


def _at_native_size(image: np.ndarray | Image.Image) -> np.ndarray:
    if isinstance(image, np.ndarray) and image.shape == (_SIZE, _SIZE, 3):
        return image
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture = picture.convert("RGB")
    if picture.size != (_SIZE, _SIZE):
        picture = picture.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _readings(images: np.ndarray) -> list[Reading]:
    """Read a batch uint8 [N, 64, 64, 3]; damaged images a second time."""
    readings = [_reading(scene, image) for scene, image in zip(_scenes(images), images, strict=True)]
    damaged = [i for i, reading in enumerate(readings) if reading.residual > _DAMAGED]  # not for NaN
    if damaged:
        softer = [_scenes(images[damaged], passes) for passes in _SOFTER]
        for i, *others in zip(damaged, *softer, strict=True):
            readings[i] = _nearest(readings[i], [scene for scene in others if scene is not None], images[i])
    return readings


def _nearest(reading: Reading, others: Sequence[Scene], image: np.ndarray) -> Reading:
    """`reading`, or that of another scene whose rendering, at the softness that fits best, is nearer to the image."""
    scenes = {scene.canonical: scene for scene in (*others, reading.scene) if scene is not None}
    if len(scenes) == 1:
        return reading
    rendered = np.stack([render(scene) for scene in scenes.values()]).astype(np.float32)
    distances = []
    for passes in (0, *_BLURS):
        rendered = _smooth(rendered, passes)
        distances.append(np.square(rendered - image).mean(axis=(1, 2, 3)))
    nearest = list(scenes.values())[int(np.min(distances, axis=0).argmin())]
    again = _reading(nearest, image)
    return reading if again.scene is None else again


def _reading(scene: Scene | None, image: np.ndarray) -> Reading:
    if scene is None:
        return Reading(None, np.nan)
    rendered = render(scene)
    difference = (image.astype(np.float32) - rendered.astype(np.float32)) / 255
    if np.sqrt(np.mean(np.square(difference))) > _NO_SCENE:
        return Reading(None, np.nan)
    return Reading(scene, residual(image, rendered))


def _scenes(images: np.ndarray, softer: int = 0) -> list[Scene | None]:
    """Read a batch uint8 [N, 64, 64, 3] by templates that are `softer` than the images by passes of `_smooth`."""
    pixels = _smooth(images.astype(np.float32) / 255)
    cells = [pixels[:, rows, columns].reshape(len(pixels), -1) for rows, columns in place_slices()]
    errors = np.stack(
        [_errors(cell, grounds) for cell, grounds in zip(cells, _ground_cells(softer), strict=True)], axis=1
    )
    best_four = np.sort(errors, axis=1)[:, :4].mean(axis=1)  # [N, grounds]
    chosen = best_four.argmin(axis=1)
    scenes: list[Scene | None] = [None] * len(pixels)
    for index in np.unique(chosen):
        rows = np.flatnonzero(chosen == index)
        fits = [_fit_place(cells[place][rows], place, int(index), softer) for place in range(9)]
        for i, row in enumerate(rows):
            unexplained = np.mean([fit[i].error for fit in fits])
            if best_four[row, index] <= _NO_BACKGROUND**2 and unexplained <= _NO_SCENE**2:
                found = tuple(fit[i].shape for fit in fits)
                scenes[row] = Scene(tuple(s for s in found if s is not None), _grounds(softer)[index].background)
    return scenes


@dataclass(frozen=True, slots=True)
class _Fit:
    """The best explanation of one place: a shape or None, and the mean squared error that it leaves."""

    shape: Shape | None
    error: float


def _fit_place(cell: np.ndarray, place: int, index: int, softer: int) -> list[_Fit]:
    """Explain one place of images [N, P*3] that share a background."""
    base = _ground_cells(softer)[place][index].reshape(-1, 3)
    difference = cell.reshape(len(cell), -1, 3) - base  # [N, P, 3]
    empty = np.square(difference).sum(axis=(1, 2))
    fits = [_Fit(None, float(error) / cell.shape[1]) for error in empty]
    busy = np.flatnonzero(empty > _FAINT)  # where there is less error than that, no shape can take more than that away
    if len(busy) == 0:
        return fits
    templates = _templates(place, softer)
    contrast = _colours()[:, None] - base  # [8, P, 3]
    gain = templates.alpha @ np.einsum("npk,cpk->pnc", difference[busy], contrast).reshape(len(base), -1)  # [T, N*8]
    change = _cost(place, index, softer)[:, None] - 2 * gain.reshape(len(templates.alpha), len(busy), -1)  # [T, N, 8]
    flat = change.transpose(1, 0, 2).reshape(len(busy), -1)
    best = flat.argmin(axis=1)
    for row, i in enumerate(busy):
        fall = -float(flat[row, best[row]])
        if fall > _FAINT and fall > _EXPLAINED * float(empty[i]):
            which, colour = divmod(int(best[row]), len(COLOURS))
            shape = templates.shapes[which]
            found = Shape(shape.shape, list(COLOURS)[colour], shape.size, place, shape.jitter)
            fits[i] = _Fit(found, max(float(empty[i]) - fall, 0.0) / cell.shape[1])
    return fits


@dataclass(frozen=True, slots=True)
class _Templates:
    """Coverage of every shape, size and shift in one place: alpha float32 [T, P]; shapes carry no meaningful colour."""

    alpha: np.ndarray
    shapes: tuple[Shape, ...]


@lru_cache(maxsize=32)
def _templates(place: int, softer: int) -> _Templates:
    rows, columns = place_slices()[place]
    shapes, alphas = [], []
    for name in SHAPES:
        for size in SIZES:
            for shift in _SHIFTS:
                whole = np.zeros((_SIZE, _SIZE), dtype=np.float32)
                alpha, top, left = coverage(name, size, place, shift, _SIZE)
                whole[top, left] = alpha
                whole = _smooth(whole[None, :, :, None], _SMOOTH + softer)[0, :, :, 0]
                shapes.append(Shape(name, "red", size, place, shift))
                alphas.append(whole[rows, columns].ravel())
    return _Templates(np.stack(alphas), tuple(shapes))


@dataclass(frozen=True, slots=True)
class _Ground:
    """A background, and its image float32 [64, 64, 3] in [0, 1] with the texture at some strength."""

    background: Background
    image: np.ndarray


@lru_cache(maxsize=4)
def _grounds(softer: int) -> tuple[_Ground, ...]:
    grounds = []
    for kind in BACKGROUND_KINDS:
        for colour, rgb in BACKGROUND_COLOURS.items():
            whole = ground(Background(kind, colour), _SIZE) / 255
            flat = np.asarray(rgb, dtype=np.float32) / 255
            for strength in _FADED if kind in ("striped", "dotted") else (1.0,):
                faded = flat + strength * (whole - flat)
                grounds.append(_Ground(Background(kind, colour), _smooth(faded[None], _SMOOTH + softer)[0]))
    return tuple(grounds)


@lru_cache(maxsize=4)
def _ground_cells(softer: int) -> list[np.ndarray]:
    """Each place of all backgrounds, float32 [grounds, P*3] in [0, 1]."""
    images = np.stack([ground.image for ground in _grounds(softer)])
    return [images[:, rows, columns].reshape(len(images), -1) for rows, columns in place_slices()]


@lru_cache(maxsize=2048)
def _cost(place: int, index: int, softer: int) -> np.ndarray:
    """Squared error that each template in each colour adds to one place of a background: [T, 8]."""
    contrast = _colours()[:, None] - _ground_cells(softer)[place][index].reshape(-1, 3)
    return np.square(_templates(place, softer).alpha) @ np.square(contrast).sum(-1).T


@lru_cache(maxsize=1)
def _colours() -> np.ndarray:
    return np.asarray(list(COLOURS.values()), dtype=np.float32) / 255


def _errors(cell: np.ndarray, grounds: np.ndarray) -> np.ndarray:
    """Mean squared errors [N, grounds] of cells [N, P*3] against backgrounds [grounds, P*3]."""
    squared = np.square(cell).sum(1)[:, None] - 2 * cell @ grounds.T + np.square(grounds).sum(1)
    return np.maximum(squared, 0) / cell.shape[1]


def _smooth(images: np.ndarray, passes: int = _SMOOTH) -> np.ndarray:
    """Images float32 [N, H, W, C] smoothed by `passes` of the kernel (1, 2, 1)/4 a side: a variance of half a pixel
    each.
    """
    for axis in (1, 2):
        for _ in range(passes):
            padding = [(1, 1) if i == axis else (0, 0) for i in range(4)]
            wide = np.pad(images, padding, mode="edge")
            first, middle, last = (np.take(wide, range(i, i + images.shape[axis]), axis=axis) for i in range(3))
            images = (first + 2 * middle + last) / 4
    return images
