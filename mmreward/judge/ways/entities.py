"""Way of judging "entities": for each thing in the image, should it have changed, and did it?

The judge lists the entities of the source and of the instruction, once for each source and instruction. For each entity
e it is then asked whether the instruction wants it changed (s_e, the probability of Yes among Yes and No, from source
and instruction alone) and, for each edit, whether it was changed (d_e). What should have changed and did not is told
apart from what changed and should not have:

    under-edit = sum_e s_e (1 - d_e) / sum_e s_e            instruction_following = 1 - under-edit
    over-edit  = sum_e (1 - s_e) d_e / sum_e (1 - s_e)      preservation = 1 - over-edit
    overall    = instruction_following x (0.6 + 0.4 preservation)

A change of the wrong kind counts as a change: this way finds what was forgotten and what was damaged, and is best
combined with one that looks at what became of it. Where the judge finds less than half an entity to change there is no
score; where it finds less than half an entity to keep, preservation is absent and following is the overall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator

from mmreward.judge.backends.backend import Backend
from mmreward.judge.labels import Answer
from mmreward.judge.options import take_number, take_whole
from mmreward.judge.parse import Reading
from mmreward.judge.prompt import Prompt
from mmreward.judge.question import LabelWording, fill, load_wording, optional
from mmreward.judge.way import Group
from mmreward.judge.ways.answered import FLOOR, share, unread
from mmreward.judge.ways.breakdown import Breakdown
from mmreward.judge.ways.checklist import asking, no_yes
from mmreward.score import Score

__all__ = ["OPTIONS", "Entities", "EntitySet", "load"]

OPTIONS = ("question", "floor", "max_new_tokens")

_GENERAL = "entities-1"
_YES = 1
_BONUS = 0.4
_LEAST = 0.5
"""Entities, as a sum of probabilities, that there must be on a side for it to be measured."""


def load(options: dict[str, str], card: Mapping[str, Any]) -> Entities:
    """Options: `question` (entities-1 or the path of your own), `floor` (least probability on the labels, default 0.5),
    `max_new_tokens` (of the list that the judge writes, default 512).
    """
    name = options.pop("question", "") or card.get("questions", {}).get("entities", _GENERAL)
    floor = take_number(options, "floor", FLOOR, 0, 1)
    return Entities(load_wording(EntitySet, "entities", name), floor, take_whole(options, "max_new_tokens", 512))


class EntitySet(LabelWording):
    """`ask` asks for the list, `should` and `did` for each entity of it."""

    places = {
        "ask": ({"instruction", "source"}, {"criteria", "most"}),
        "shared": ({"instruction", "source"}, {"criteria"}),
        "candidate": ({"edited"}, set()),
        "should": ({"entity"}, set()),
        "did": ({"entity"}, set()),
        "criteria": ({"criteria"}, set()),
    }

    ask: str
    shared: str
    candidate: str
    should: str
    did: str
    criteria: str | None = None
    most: int = Field(default=12, ge=1)

    @field_validator("labels")
    @classmethod
    def _no_yes(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        return no_yes(labels)

    def prompt(self, group: Group, entities: Sequence[str]) -> Prompt:
        """First whether each entity should change, then, candidate by candidate, whether each did."""
        criteria = optional(self.criteria, criteria=group.criteria)
        root = fill(self.shared, instruction=group.instruction, source=group.source, criteria=criteria)
        should = tuple(Prompt(fill(self.should.strip(), entity=one), answer=self.prefix) for one in entities)
        did = tuple(Prompt(fill(self.did.strip(), entity=one), answer=self.prefix) for one in entities)
        return Prompt(root, should + tuple(Prompt(fill(self.candidate, edited=image), did) for image in group.edited))


class Entities:
    """`raw` holds under_edit and over_edit, and for entity number i should_i and did_i; `rationale` names them."""

    dims = ("instruction_following", "preservation")

    def __init__(self, questions: EntitySet, floor: float = FLOOR, max_new_tokens: int = 512) -> None:
        self.questions, self.floor = questions, floor
        self.version = questions.version
        self._listed = Breakdown(
            lambda group: asking(questions.ask, questions.criteria, questions.most, group), "entities", questions.most,
            max_new_tokens,
        )  # fmt: skip
        self._provenance = {"way": "entities", "floor": floor}

    def check(self, backend: Backend) -> None:
        self.questions.check(backend)

    def score(self, groups: Sequence[Group], backend: Backend) -> list[list[Score]]:
        lists = self._listed.of(groups, backend)
        asked = [place for place, one in enumerate(lists) if one.status == "ok"]
        prompts = [self.questions.prompt(groups[place], lists[place].items) for place in asked]
        told = dict(zip(asked, backend.probabilities(prompts, self.questions.labels), strict=True)) if asked else {}
        return [
            self._scores(one, told[place], len(group.edited)) if place in told else [_unlisted(one)] * len(group.edited)
            for place, (group, one) in enumerate(zip(groups, lists, strict=True))
        ]

    def _scores(self, listed: Reading, answers: Sequence[Answer], candidates: int) -> list[Score]:
        each = len(listed.items)
        should = answers[:each]
        starts = range(each, each * (candidates + 1), each)
        return [self._score(listed.items, should, answers[start : start + each]) for start in starts]

    def _score(self, entities: Sequence[str], should: Sequence[Answer], did: Sequence[Answer]) -> Score:
        raw: dict[str, float] = {}
        for what, answers in (("should", should), ("did", did)):
            for number, (entity, answer) in enumerate(zip(entities, answers, strict=True), 1):
                if failure := unread(answer, self.floor):
                    error = f"{what} {entity!r} change: {failure[1]}"
                    return Score.failed(failure[0], error, raw=raw, provenance=self._provenance)
                raw[f"{what}_{number}"] = share(answer, _YES)
        pairs = [(raw[f"should_{number}"], raw[f"did_{number}"]) for number in range(1, len(entities) + 1)]
        rationale = "\n".join(
            f"should {s:.2f}, did {d:.2f}: {entity}" for entity, (s, d) in zip(entities, pairs, strict=True)
        )
        to_change, to_keep = sum(s for s, _ in pairs), sum(1 - s for s, _ in pairs)
        if to_change < _LEAST:
            error = "the judge finds nothing in its list that the instruction asks to change"
            return Score.failed("parse_error", error, rationale=rationale, raw=raw, provenance=self._provenance)
        raw["under_edit"] = min(sum(s * (1 - d) for s, d in pairs) / to_change, 1.0)
        dims = {"instruction_following": 1 - raw["under_edit"]}
        overall = dims["instruction_following"]
        if to_keep >= _LEAST:
            raw["over_edit"] = min(sum((1 - s) * d for s, d in pairs) / to_keep, 1.0)
            dims["preservation"] = 1 - raw["over_edit"]
            overall *= 1 - _BONUS + _BONUS * dims["preservation"]
        return Score(overall, dims, rationale=rationale, raw=raw, provenance=self._provenance)


def _unlisted(reading: Reading) -> Score:
    return Score.failed(reading.status, f"the list of entities: {reading.error}", rationale=reading.rationale)
