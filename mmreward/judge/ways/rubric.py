"""Way of judging "rubric": the judge reasons, then writes four grades as JSON.

Two grades are given with both images in view, `success` (was the instruction carried out) and `over_edit` (was all else
left alone; high is good), and two with the edited image alone, `naturalness` and `artefacts` (high is free of them).
With all of them brought to [0, 1],

    overall = sqrt( min(success, over_edit) x min(naturalness, artefacts) )

M. Ku et al., "VIEScore", 2024, for grades from 0 to 10; X. Luo et al., "EditScore", 2025, for grades from 0 to 25
(question set rubric-25) and for repeating the judgement. As there, each of n passes is a judgement of its own with its
own seed, and what they come to is averaged after the formula, not before it; `votes=median` takes the median instead.
Their standard deviation is the score's spread.

A pass in which either answer cannot be read is left out and counted in `raw["passes_failed"]`. Where no pass can be
read there is no score.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from pydantic import field_validator

from mmreward.judge.backends.backend import Backend, Sampling, Text
from mmreward.judge.options import take_choice
from mmreward.judge.parse import Reading, read_scores
from mmreward.judge.prompt import Fixed, Prompt
from mmreward.judge.question import Wording, fill, load_wording, optional
from mmreward.judge.way import Group
from mmreward.judge.ways.sampling import SAMPLING_OPTIONS, described, take_sampling
from mmreward.score import Score, Spread, Status

__all__ = ["OPTIONS", "Rubric", "RubricSet", "load"]

OPTIONS = ("question", "votes", *SAMPLING_OPTIONS)

_TOGETHER = ("success", "over_edit")
_ALONE = ("naturalness", "artefacts")
_ALSO = {
    "over_edit": ("restraint", "overedit", "over_editing", "overediting"),
    "artefacts": ("artifacts", "clean_work", "cleanness"),
}
"""What else questions and judges call a grade."""
_VOTES: dict[str, Callable[[Sequence[float]], float]] = {"mean": statistics.fmean, "median": statistics.median}
_GENERAL = "rubric-10"


def load(options: dict[str, str], card: Mapping[str, Any]) -> Rubric:
    """Options: `question` (rubric-10, rubric-25 or the path of your own), `votes` (mean or median of the passes), and
    those of `take_sampling`.
    """
    name = options.pop("question", "") or card.get("questions", {}).get("rubric", _GENERAL)
    votes = take_choice(options, "votes", "mean", _VOTES)
    return Rubric(load_wording(RubricSet, "rubric", name), take_sampling(options), votes)


class RubricSet(Wording):
    """`shared` and `candidate` ask for success and over-edit, `alone` for naturalness and artefacts, each as JSON with
    the key "score" (a list of two numbers) after the key "reasoning".
    """

    places = {
        "shared": ({"instruction", "source"}, {"criteria"}),
        "candidate": ({"edited"}, set()),
        "alone": ({"edited"}, set()),
        "criteria": ({"criteria"}, set()),
    }

    scale: tuple[int, int]
    shared: str
    candidate: str
    alone: str
    criteria: str | None = None

    @field_validator("scale")
    @classmethod
    def _scale(cls, scale: tuple[int, int]) -> tuple[int, int]:
        if not scale[0] < scale[1]:
            raise ValueError(f"scale goes from the worst to the best grade, got {list(scale)}")
        return scale

    def prompts(self, group: Group) -> tuple[Prompt, Prompt]:
        """What is asked with both images and with the edited image alone; an answer a candidate."""
        criteria = optional(self.criteria, criteria=group.criteria)
        root = fill(self.shared, instruction=group.instruction, source=group.source, criteria=criteria)
        before, _, after = self.alone.partition("{edited}")
        together = tuple(Prompt(fill(self.candidate, edited=image)) for image in group.edited)
        return Prompt(root, together), Prompt((Fixed(before),), tuple(_seen(image, after) for image in group.edited))

    @property
    def answer_schema(self) -> dict[str, Any]:
        """JSON schema of either answer."""
        grade = {"type": "integer", "minimum": self.scale[0], "maximum": self.scale[1]}
        grades = {"type": "array", "items": grade, "minItems": 2, "maxItems": 2}
        return {
            "type": "object",
            "properties": {"reasoning": {"type": "string"}, "score": grades},
            "required": ["reasoning", "score"],
            "additionalProperties": False,
        }


@dataclass(frozen=True)
class _Pass:
    """One judgement of one edit: the two readings and, where both are ok, the grades by name as they were written
    (`raw`) and on [0, 1].
    """

    readings: tuple[Reading, Reading]
    raw: Mapping[str, float]
    grades: Mapping[str, float]

    @property
    def overall(self) -> float:
        low = [min(self.grades[name] for name in names) for names in (_TOGETHER, _ALONE)]
        return math.sqrt(low[0] * low[1])

    @property
    def failure(self) -> tuple[Status, str] | None:
        for part, reading in zip(("both images", "edited image"), self.readings, strict=True):
            if reading.status != "ok":
                return reading.status, f"{part}: {reading.error}"
        return None

    @property
    def rationale(self) -> str:
        failed = [f"(not read: {self.failure[1]})"] if self.failure else []
        return "\n".join(failed + [reading.rationale for reading in self.readings if reading.rationale])


class Rubric:
    """`dims`: success, over-edit (as preservation) and the lower of the two grades of the edited image."""

    dims = ("instruction_following", "preservation", "quality")

    def __init__(self, questions: RubricSet, sampling: Sampling | None = None, votes: str = "mean") -> None:
        sampling = sampling or Sampling()
        self.questions, self.votes = questions, votes
        self.version = questions.version
        self.sampling = replace(sampling, schema=questions.answer_schema)
        self._provenance = {"way": "rubric", "votes": votes, **described(sampling)}

    def check(self, backend: Backend) -> None:
        """Any backend that writes text will do."""

    def score(self, groups: Sequence[Group], backend: Backend) -> list[list[Score]]:
        prompts = [prompt for group in groups for prompt in self.questions.prompts(group)]
        written = backend.generate(prompts, self.sampling)
        return [
            [self._score(texts) for texts in zip(together, alone, strict=True)]
            for together, alone in zip(written[::2], written[1::2], strict=True)
        ]

    def _score(self, texts: tuple[list[Text], list[Text]]) -> Score:
        """The score of one edit from what was written in each pass about both images and about the edited one."""
        passes = [self._read(*pair) for pair in zip(*texts, strict=True)]
        good = [one for one in passes if not one.failure]
        raw = {"passes": float(len(passes)), "passes_failed": float(len(passes) - len(good))}
        rationale = passes[0].rationale
        if len(passes) > 1:
            rationale = "\n".join(f"pass {number}: {one.rationale}" for number, one in enumerate(passes, 1))
        if not good:
            status, error = _common([one.failure for one in passes if one.failure])
            error = error if len(passes) == 1 else f"all {len(passes)} passes failed, most often so: {error}"
            return Score.failed(status, error, rationale=rationale, raw=raw, provenance=self._provenance)
        vote = _VOTES[self.votes]
        grades = {name: vote([one.grades[name] for one in good]) for name in (*_TOGETHER, *_ALONE)}
        dims = {
            "instruction_following": grades["success"],
            "preservation": grades["over_edit"],
            "quality": vote([min(one.grades[name] for name in _ALONE) for one in good]),
        }
        raw |= {name: vote([one.raw[name] for one in good]) for name in grades}
        overall = [one.overall for one in good]
        spread = Spread("passes", statistics.stdev(overall)) if len(good) > 1 else None
        return Score(vote(overall), dims, rationale=rationale, spread=spread, raw=raw, provenance=self._provenance)

    def _read(self, together: Text, alone: Text) -> _Pass:
        least, most = self.questions.scale
        readings = (_reading(together, _TOGETHER, least, most), _reading(alone, _ALONE, least, most))
        raw = dict(zip((*_TOGETHER, *_ALONE), (grade for reading in readings for grade in reading.scores)))
        return _Pass(readings, raw, {name: (grade - least) / (most - least) for name, grade in raw.items()})


def _reading(text: Text, names: Sequence[str], least: float, most: float) -> Reading:
    if text.status != "ok":
        return Reading(status=text.status, error=text.error)
    spellings = [(name, *_ALSO.get(name, ())) for name in names]
    return read_scores(text.text, spellings, least, most, finished=text.finished)


def _seen(image: Image.Image, after: str) -> Prompt:
    return Prompt((image, Fixed(after)))


def _common(failures: Sequence[tuple[Status, str]]) -> tuple[Status, str]:
    """The most frequent status, with its first error."""
    status = Counter(status for status, _ in failures).most_common(1)[0][0]
    return status, next(error for one, error in failures if one == status)
