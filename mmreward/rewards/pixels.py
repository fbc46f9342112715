"""Rules on pixels: was what should stay kept, and is the image clean? No model, no learning, valid for any image.

*Instruction following is not measured*: an untouched copy keeps everything and is clean, so it scores near 1. Use this
reward beside one that reads the instruction.

All images are RGB in [0, 1]; an edited image of another size is resized to the source when the aspect ratios agree
within 2 % (provenance says so), and is `not_applicable` otherwise. Images of more than 2,097,152 pixels are compared at
a smaller size, also for quality (`mmreward.rewards.align`; provenance says from which).

**Preservation**: d(p) = root mean square over the three channels of the difference between source and edit at pixel p,
both averaged over 3x3 pixels so that resampling and JPEG noise count little;

    preservation = mean over p outside the region of exp(-(d(p) / 0.1)^2)

a soft share of the pixels that kept their colour: 0.96 for d = 0.02 (5 of 255 levels), 0.37 for 0.1, 0 for 0.3. The
region is what may change: the white part of the mask; else where the target (a known good result) differs from the
source by more than 0.06, widened by 2 % of the shorter side; else nothing (whole image). It never comes from the
edit's own changes, which would let an edit choose what it is measured on. Where less than 1 % of the image lies
outside, preservation is not measured.

**Quality** = exp(-(blur / 0.25 + noise / 0.04 + blocks / 0.35)), each the excess of the edit over its source, on luma:

- blur in [0, 1]: 1 - the share of the variation between neighbouring pixels that a further 9-pixel mean takes away,
  each step weighted by its size so that edges count and smooth gradients do not; the larger of both axes. After Crete,
  Dolmiere, Ladret, Nicolas, "The blur effect: perception and estimation with a new no-reference perceptual blur
  metric", SPIE 2007. Below 0.03 nothing is counted.
- noise: standard deviation of white noise, from the median of |L * luma| / (6 x 0.6745) with the Laplacian difference
  L = [1 -2 1; -2 4 -2; 1 -2 1]; Immerkaer, "Fast noise variance estimation", CVIU 1996, with the median in place of the
  mean so that edges do not count. Below 0.004 nothing is counted.
- blocks in [0, 1]: (B - A) / (B + A + 0.02) with B the mean step across the borders of n x n blocks and A the mean step
  inside them, largest over n = 4, 8, 16; after Wang, Sheikh, Bovik, "No-reference perceptual quality assessment of JPEG
  compressed images", ICIP 2002. Below 0.05 nothing is counted. Blocks must start at the corner of the image.

**Overall** = sqrt(preservation x quality), or quality alone where preservation is not measured.
"""

__all__ = ["PixelReward", "load"]

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmreward.edit import Edit
from mmreward.reward import unknown
from mmreward.rewards.align import align
from mmreward.rewards.base import Pointwise
from mmreward.score import Failure, Score

Array = NDArray[Any]

_COLOUR_SCALE = 0.1
_REGION_THRESHOLD = 0.06
_REGION_MARGIN = 0.02
_LEAST_OUTSIDE = 0.01
_DEFECTS = {"blur": (0.03, 0.25), "noise": (0.004, 0.04), "blocks": (0.05, 0.35)}
"""Name -> (excess that is not counted, scale of the exponential)."""


def load(model: str = "", **options: str) -> "PixelReward":
    """`pixels` takes neither a model nor options."""
    if model:
        raise ValueError(f"the reward 'pixels' has no models; write 'pixels', not 'pixels:{model}'")
    for option in options:
        raise unknown("option of 'pixels'", option, [])
    return PixelReward()


class PixelReward(Pointwise):
    """`overall` is the geometric mean of preservation and quality. See the module for the formulas."""

    name = "pixels"
    dims = ("preservation", "quality")
    _provenance = {"reward": name, "version": 1}

    def measure(self, edits: Sequence[Edit]) -> list[Score | Failure]:
        return [_measure(edit) for edit in edits]


def _measure(edit: Edit) -> Score:
    aligned = align(edit, ("source", "edited", "mask", "target"))
    arrays = {name: np.asarray(image, np.float32) / 255 for name, image in aligned.images.items()}
    source, edited = arrays["source"], arrays["edited"]
    region, outside = _outside(source, arrays.get("mask"), arrays.get("target"))
    difference = _difference(source, edited)
    share = float(outside.mean())
    raw = {"difference": float(difference.mean()), "outside_share": share}
    dims = {}
    if share >= _LEAST_OUTSIDE:
        raw["difference_outside"] = float(difference[outside].mean())
        dims["preservation"] = float(np.exp(-np.square(difference[outside] / _COLOUR_SCALE)).mean(dtype=np.float64))

    before, after = _defects(_luma(source)), _defects(_luma(edited))
    penalty = 0.0
    for name, (ignored, scale) in _DEFECTS.items():
        raw[f"{name}_source"], raw[name] = before[name], after[name]
        penalty += max(0.0, after[name] - before[name] - ignored) / scale
    dims["quality"] = math.exp(-penalty)
    dims = {name: min(1.0, value) for name, value in dims.items()}
    provenance = {"region": region, **aligned.about}
    return Score(math.prod(dims.values()) ** (1 / len(dims)), dims, raw=raw, provenance=provenance)


def _outside(source: Array, mask: Array | None, target: Array | None) -> tuple[str, NDArray[np.bool_]]:
    """Where the image must not change, and what says so."""
    if mask is not None:
        return "mask", mask < 0.5
    if target is not None:
        margin = max(1, round(_REGION_MARGIN * min(source.shape[:2])))
        changed = (_difference(source, target) > _REGION_THRESHOLD).astype(np.float32)
        return "target", _box(_box(changed, 2 * margin + 1, 0), 2 * margin + 1, 1) < 0.5 / (2 * margin + 1) ** 2
    return "whole image", np.ones(source.shape[:2], bool)


def _difference(a: Array, b: Array) -> Array:
    """Root mean square over channels of the 3x3 means' difference; [H, W, 3] twice to [H, W]."""
    return np.sqrt(np.square(_box(_box(a - b, 3, 0), 3, 1)).mean(axis=2))


def _luma(image: Array) -> Array:
    return image @ np.asarray([0.299, 0.587, 0.114], np.float32)


def _defects(luma: Array) -> dict[str, float]:
    return {"blur": _blur(luma), "noise": _noise(luma), "blocks": max(_blocks(luma, n) for n in (4, 8, 16))}


def _blur(luma: Array) -> float:
    worst = 0.0
    for axis in (0, 1):
        steps = np.abs(np.diff(luma, axis=axis))
        total = float(np.square(steps).sum(dtype=np.float64))
        if total > 1e-5 * luma.size:  # an image without edges is neither sharp nor blurred
            lost = np.maximum(0, steps - np.abs(np.diff(_box(luma, 9, axis), axis=axis)))
            worst = max(worst, 1 - float((steps * lost).sum(dtype=np.float64)) / total)
    return worst


def _noise(luma: Array) -> float:
    if min(luma.shape) < 3:
        return 0.0
    second = luma[2:] - 2 * luma[1:-1] + luma[:-2]
    response = second[:, 2:] - 2 * second[:, 1:-1] + second[:, :-2]
    return float(np.median(np.abs(response)) / (6 * 0.6745))


def _blocks(luma: Array, n: int) -> float:
    worst = 0.0
    for axis in (0, 1):
        steps = np.abs(np.diff(luma, axis=axis)).mean(axis=1 - axis, dtype=np.float64)
        if len(steps) < 2 * n:
            continue
        border = np.arange(1, len(steps) + 1) % n == 0
        across, inside = float(steps[border].mean()), float(steps[~border].mean())
        worst = max(worst, (across - inside) / (across + inside + 0.02))
    return worst


def _box(values: Array, width: int, axis: int) -> Array:
    """Running mean over `width` (odd) places along `axis`; edges are repeated."""
    pad = [(0, 0)] * values.ndim
    pad[axis] = (width // 2 + 1, width // 2)
    sums = np.cumsum(np.pad(values, pad, mode="edge"), axis=axis, dtype=np.float64)
    count = values.shape[axis]
    high, low = np.arange(width, width + count), np.arange(count)
    return ((sums.take(high, axis) - sums.take(low, axis)) / width).astype(np.float32)
