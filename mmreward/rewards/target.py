"""How much of the way from the source to a known target did the edit go? A rule on pixels, for rows with a target.

    progress = 1 - d(edited, target) / d(source, target)          overall = progress, cut off at 0

d is the mean over pixels of the root mean square over channels. An untouched copy has progress 0 by definition, the
target itself 1, and damage anywhere in the image takes away. It knows one good answer where there may be many (a shape
moved by a pixel already costs something), so its level means little; a change of its mean over many tasks means much.
That, and that nothing trains on it, makes it a monitor. The target is the edit's `target`.
"""

__all__ = ["TargetReward", "load"]

from collections.abc import Sequence

import numpy as np

from mmreward.edit import Edit, ImageError, fit
from mmreward.reward import Reward, unknown
from mmreward.score import Score

_LEAST_CHANGE = 0.001
"""Mean difference between source and target below which there is no way to go."""


def load(model: str = "", **options: str) -> "TargetReward":
    """`target` takes neither a model nor options."""
    if model:
        raise ValueError(f"the reward 'target' has no models; write 'target', not 'target:{model}'")
    for option in options:
        raise unknown("option of 'target'", option, [])
    return TargetReward()


class TargetReward(Reward):
    """`overall` is the share of the way from source to target, in [0, 1]; `raw` has the progress uncut."""

    name = "target"
    dims = ("progress",)

    def score(self, edits: Sequence[Edit]) -> list[Score]:
        return [self._score(edit) for edit in edits]

    def _score(self, edit: Edit) -> Score:
        provenance = {"reward": self.name, "version": 1}
        try:
            if not edit.has("target"):
                raise ImageError("the row has no target image to compare with", "not_applicable")
            source, target, edited = _pixels(edit)
        except ImageError as error:
            return Score.failed(error.status, error.message, provenance=provenance)
        way = _distance(source, target)
        if way < _LEAST_CHANGE:
            why = "the target is the source: there is nothing to reach"
            return Score.failed("not_applicable", why, provenance=provenance)
        progress = 1 - _distance(edited, target) / way
        overall = max(progress, 0.0)
        return Score(overall, {"progress": overall}, raw={"progress": progress}, provenance=provenance)


def _pixels(edit: Edit) -> list[np.ndarray]:
    """Source, target and edit as float arrays of the source's size."""
    source = edit.image("source")
    found = [np.asarray(source, np.float32) / 255]
    for name in ("target", "edited"):
        image = edit.image(name)
        fitted = fit(image, source.size)
        if fitted is None:
            raise ImageError(
                f"{name} image is {image.width}x{image.height} and the source {source.width}x{source.height}: their "
                "aspect ratios differ by more than 2 %",
                "not_applicable",
            )
        found.append(np.asarray(fitted, np.float32) / 255)
    return found


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a - b).mean(axis=2)).mean())
