"""What models of human preference have in common: an unbounded number, brought to [0, 1], and the text it is about.

Such a model is trained so that the difference of two numbers says which of two images is preferred. One number alone
has no scale, so

    overall = 1 / (1 + exp(-(raw - centre) / scale))

With scale 1 that is the probability, under Bradley and Terry's model, of being preferred to an image whose number is
`centre`. The map is strictly increasing, so it changes no order; `Score.raw` keeps the number itself.
"""

from __future__ import annotations

__all__ = ["SCALE_OPTIONS", "Scale", "take_scale", "text_of", "without_text"]

import math
from dataclasses import dataclass
from typing import Any

from mmreward.edit import Edit
from mmreward.judge.options import take_number
from mmreward.score import Failure

SCALE_OPTIONS = ("centre", "scale")


@dataclass(frozen=True)
class Scale:
    """The logistic map with this centre and scale.

    >>> Scale(21.0, 1.0)(21.0)
    0.5
    """

    centre: float
    scale: float

    def __call__(self, raw: float) -> float:
        return 0.5 + 0.5 * math.tanh((raw - self.centre) / self.scale / 2)  # no overflow at either end

    def spread(self, raw: float, deviation: float) -> float:
        """A standard deviation of `raw` on the scale of the result, to first order."""
        value = self(raw)
        return deviation * value * (1 - value) / self.scale

    @property
    def about(self) -> dict[str, Any]:
        return {"squashed": "logistic", "centre": self.centre, "scale": self.scale}


def take_scale(options: dict[str, str], default: Scale) -> Scale:
    """Options `centre` and `scale`, taken out of `options`."""
    centre = take_number(options, "centre", default.centre, -1e6, 1e6)
    return Scale(centre, take_number(options, "scale", default.scale, 1e-6, 1e6))


def text_of(edit: Edit) -> tuple[str, str]:
    """The text that an image should agree with, and what it is: the target caption, else the instruction, as given
    (blanks at its ends change the numbers, and published models were fed with them).

    Models of text-to-image preference read a description of the image; an instruction is the best there is without one.
    """
    if (edit.target_caption or "").strip():
        return str(edit.target_caption), "target caption"
    return edit.instruction, "instruction"


def without_text(edit: Edit) -> Failure | None:
    """Why there is nothing for `text_of` to give, None where there is."""
    if text_of(edit)[0].strip():
        return None
    return Failure("not_applicable", "there is neither a target caption nor an instruction")
