"""How much of the way from the source to a known target did the edit go? A rule on pixels, for rows with a target.

    progress = 1 - d(edited, target) / d(source, target)          overall = progress, cut off at 0

d is the mean over pixels of the root mean square over channels. An untouched copy has progress 0 by definition, the
target itself 1, and damage anywhere in the image takes away. It knows one good answer where there may be many (a shape
moved by a pixel already costs something), so its level means little; a change of its mean over many tasks means much.
That, and that nothing trains on it, makes it a monitor. The target is the edit's `target`. Target and edit are resized
to the source; images of more than 2,097,152 pixels are compared at a smaller size (`mmreward.rewards.align`).
"""

__all__ = ["TargetReward", "load"]

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mmreward.edit import Edit
from mmreward.reward import unknown
from mmreward.rewards.align import align
from mmreward.rewards.base import Pointwise
from mmreward.score import Failure, Score

_LEAST_CHANGE = 0.001
"""Mean difference between source and target below which there is no way to go."""


def load(model: str = "", **options: str) -> "TargetReward":
    """`target` takes neither a model nor options."""
    if model:
        raise ValueError(f"the reward 'target' has no models; write 'target', not 'target:{model}'")
    for option in options:
        raise unknown("option of 'target'", option, [])
    return TargetReward()


class TargetReward(Pointwise):
    """`overall` is the share of the way from source to target, in [0, 1]; `raw` has the progress uncut."""

    name = "target"
    dims = ("progress",)
    _provenance = {"reward": name, "version": 1}

    def applies(self, edit: Edit) -> Failure | None:
        """It applies where the row has a target that differs from its source and can be compared with it."""
        if not edit.has("target"):
            return Failure("not_applicable", "the row has no target image to compare with")
        images = align(edit, ("source", "target")).images
        if _distance(_pixels(images["source"]), _pixels(images["target"])) < _LEAST_CHANGE:
            return Failure("not_applicable", "the target is the source: there is nothing to reach")
        return None

    def measure(self, edits: Sequence[Edit]) -> list[Score | Failure]:
        return [_measure(edit) for edit in edits]


def _measure(edit: Edit) -> Score:
    aligned = align(edit, ("source", "target", "edited"))
    source, target, edited = (_pixels(aligned.images[name]) for name in ("source", "target", "edited"))
    progress = 1 - _distance(edited, target) / _distance(source, target)
    overall = max(progress, 0.0)
    return Score(overall, {"progress": overall}, raw={"progress": progress}, provenance=aligned.about)


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32) / 255


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a - b).mean(axis=2)).mean())
