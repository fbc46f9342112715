"""What an iteration's edits are like, whatever the reward says: the first signs of a policy that games its reward.

Rewards rise while edits of one group become all alike (`diversity`), while the policy stops touching the image or
repaints all of it (`changed_area`, `untouched`), or while the parts of the reward stop agreeing on what is better
(`disagreement`). These numbers are watched and drawn; nothing is trained on them.

Images count at the size of their source, reduced so that the longest side has at most 256 pixels.
"""

__all__ = ["measures"]

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

from mmreward.edit import Edit
from mmreward.score import Score

Array = NDArray[np.float32]

_VISIBLE = 0.06
"""Difference of a pixel, in [0, 1] and over 3x3 means, from which on it counts as changed: the one by which the reward
`pixels` finds the region of a target."""
_UNTOUCHED = 0.005
"""Largest changed share of the image in a copy of the source. On 96 validation tasks of the shapes world a source that
went through the bundled editor's autoencoder changes at most 0.0046 of it, a right answer at least 0.0098."""
_LONGEST = 256


def measures(edits: Sequence[Edit], scores: Sequence[Score]) -> dict[str, float]:
    """Numbers for the log of one iteration's edits, each in [0, 1] but the last, which is in [0, 2].

    - `diversity`: root mean square difference (pixels and channels) between two edits of a group, mean over its pairs
      and over groups; 0 where all edits of every group are the same.
    - `changed_area`: mean share of the pixels that differ visibly from the source.
    - `untouched`: share of the edits that are copies of their source.
    - `disagreement`: 1 - Kendall's tau-b between two members of a combined reward, mean over pairs of members and over
      groups: 0 where they rank alike, 1 where their ranks have nothing to do with each other, 2 where they are
      opposites. Absent where the reward is no combination, or nothing in it can be ranked.

    Edits without a score count in all but the last. `diversity` is absent where no group has two edits.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place, edit in enumerate(edits):
        groups[edit.group].append(place)
    found: dict[str, float] = {}
    distances: list[float] = []
    changed: list[float] = []
    for places in groups.values():
        source = _reduced(edits[places[0]].image("source"))
        pixels = np.stack([_pixels(edits[place].image("edited"), source.size) for place in places])
        changed += [_changed(_pixels(source, source.size), edited) for edited in pixels]
        if len(places) > 1:
            distances.append(_mean_distance(pixels))
    if distances:
        found["diversity"] = float(np.mean(distances))
    found["changed_area"] = float(np.mean(changed))
    found["untouched"] = float(np.mean([share <= _UNTOUCHED for share in changed]))
    taus = [tau for places in groups.values() for tau in _taus([scores[place] for place in places])]
    if taus:
        found["disagreement"] = 1 - float(np.mean(taus))
    return found


def _reduced(image: Image.Image) -> Image.Image:
    scale = _LONGEST / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image if scale >= 1 else image.resize(size, Image.Resampling.BOX)


def _pixels(image: Image.Image, size: tuple[int, int]) -> Array:
    """The image at `size` (width, height) as [H, W, 3] in [0, 1]."""
    fitted = image if image.size == size else image.resize(size, Image.Resampling.BOX)
    return np.asarray(fitted.convert("RGB"), np.float32) / np.float32(255)


def _changed(source: Array, edited: Array) -> float:
    """Share of pixels whose 3x3 means differ visibly; [H, W, 3] twice."""
    smooth = uniform_filter(edited - source, size=(3, 3, 1), mode="nearest")
    return float((np.sqrt(np.square(smooth).mean(axis=2)) > _VISIBLE).mean())


def _mean_distance(pixels: Array) -> float:
    """Mean over pairs of [members, H, W, 3] of their root mean square difference."""
    pairs = combinations(range(len(pixels)), 2)
    return float(np.mean([np.sqrt(np.square(pixels[i] - pixels[j]).mean()) for i, j in pairs]))


def _taus(scores: Sequence[Score]) -> Iterator[float]:
    """Kendall's tau-b of every two members of a combination over one group; none for a member that ranks nothing."""
    names = sorted({name for score in scores for name in score.parts})
    overalls = [[score.parts[name].overall if name in score.parts else np.nan for name in names] for score in scores]
    table = np.array(overalls)
    for first, second in combinations(range(len(names)), 2):
        both = table[np.isfinite(table[:, [first, second]]).all(axis=1)][:, [first, second]]
        signs = np.sign(both[:, None] - both[None])
        norm = np.sqrt(np.square(signs).sum(axis=(0, 1)).prod())
        if norm > 0:
            yield float(signs.prod(axis=2).sum() / norm)
