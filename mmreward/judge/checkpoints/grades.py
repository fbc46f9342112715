"""Two pairs of grades from 0 to 25, as EditScore and UnifiedReward-Edit ask for them.

Success and over-editing with both images in view, naturalness and artefacts with the edited image alone; the images
come first, then the text with the instruction at its end. The structure is that of VIEScore, so the answers are read
and combined by the way `rubric`: minimum within a pair, geometric mean of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from PIL import Image

from mmreward.judge.backends.backend import Sampling
from mmreward.judge.checkpoints.images import FACTOR, area_size
from mmreward.judge.prompt import Fixed, Given, Piece, Prompt
from mmreward.judge.way import Group, Way
from mmreward.judge.ways.rubric import Rubric, RubricSet

__all__ = ["GradePairs", "TOKENS", "rubric_way"]

TOKENS = (4, 16384)
"""Least and most visual tokens of an image in qwen-vl-utils, where nothing else is said."""


@dataclass(frozen=True)
class GradePairs:
    """What `Rubric` asks with. `place` in `together` is where the instruction goes.

    `numbered`: each image is announced by "<img1>: " and so on, and resized by Pillow beforehand to at most `pixels`
    pixels, as the code for Qwen2.5-VL does; otherwise the model's own processor resizes it.
    """

    version: str
    together: str
    alone: str
    place: str
    numbered: bool = False
    pixels: int | None = None

    scale = (0, 25)
    answer_schema = None  # the published judges write freely

    def prompts(self, group: Group) -> tuple[Prompt, Prompt]:
        """What is asked with both images and with the edited image alone; an answer a candidate.

        Text and instruction are tokenised in one run, as in training: a token may reach across the seam.
        """
        source, *edited = (self._sized(image) for image in (group.source, *group.edited))
        asked = Given(self.together.replace(self.place, group.instruction))
        both = tuple(Prompt((*self._mark(2), image, asked)) for image in edited)
        one = tuple(Prompt((image, Given(self.alone))) for image in edited)
        return Prompt((*self._mark(1), source), both), Prompt(self._mark(1), one)

    def _mark(self, number: int) -> tuple[Piece, ...]:
        return (Fixed(f"<img{number}>: "),) if self.numbered else ()

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height at which an image of a size is shown to the model's processor."""
        if not self.numbered:
            return width, height
        least, most = (count * FACTOR**2 for count in TOKENS)
        most = min(most, self.pixels or most)
        try:
            return area_size(width, height, min(least, most), most)
        except ValueError:
            return width, height  # the backend refuses it too, as an answer of its row

    def _sized(self, image: Image.Image) -> Image.Image:
        return image.resize(self.size(*image.size), Image.Resampling.BICUBIC) if self.numbered else image


def rubric_way(words: GradePairs, sampling: Sampling, votes: str = "mean") -> Way:
    """The way `rubric` with these words."""
    return cast(Way, Rubric(cast(RubricSet, words), sampling, votes))
