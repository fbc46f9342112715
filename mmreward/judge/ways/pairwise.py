"""Way of judging "pairwise": which of two edits is better, asked in both orders.

Judges favour a place. With p_AB the probability of "A" for edits in the order (first, second) and p_BA that for
(second, first),

    by probability    p = (p_AB + 1 - p_BA) / 2, the probability that the first is better
    by verdict        the judge reasons and names a winner; where the orders disagree the pair is a tie

`consistent` says whether both orders preferred the same edit. Whether a p near 1/2 is called a tie is for the reader of
a preference: it states the `margin`. Task and criterion are input (after Y. Gong et al., "OneReward", 2025): each
criterion is a question of the set, and a preference over several criteria is their mean.

As a reward, candidates of one source and instruction meet each other (see `mmreward.judge.ways.schedule`), and

    overall = win rate = mean over the comparisons of P(better) + P(tie) / 2

Another group gives the same edit another win rate, and an edit without company has none: `not_applicable`. A
comparison that failed is left out and counted in `raw`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from statistics import fmean
from typing import Any

from pydantic import Field, field_validator

from mmreward.judge.backends.backend import Backend, Sampling
from mmreward.judge.options import take_choice, take_number, take_whole
from mmreward.judge.prompt import Fixed, Prompt
from mmreward.judge.question import LabelWording, fill, load_wording, optional
from mmreward.judge.way import Group
from mmreward.judge.ways.answered import FLOOR
from mmreward.judge.ways.pair_votes import both_orders_likely, both_orders_written
from mmreward.judge.ways.sampling import SAMPLING_OPTIONS, described, take_sampling
from mmreward.judge.ways.schedule import SCHEMES, schedule
from mmreward.preference import Preference
from mmreward.reward import unknown
from mmreward.score import Score

__all__ = ["MARGIN", "OPTIONS", "PairSet", "Pairwise", "load"]

OPTIONS = ("question", "criterion", "task", "by", "margin", "floor", "pairs", "rivals", *SAMPLING_OPTIONS)

MARGIN = 0.05
"""A probability of first that is this close to 1/2 is called a tie."""

_GENERAL = "pairwise-1"
_BY = ("probability", "verdict")


def load(options: dict[str, str], card: Mapping[str, Any]) -> Pairwise:
    """Options: `question` (pairwise-1 or the path of your own), `criterion` (one or more of the set's questions,
    separated by commas; default overall), `task` (the kind of edit, in words), `by` (probability or verdict; default
    probability), `margin` (default 0.05), `floor` (least probability on the labels, default 0.5), `pairs` (all, ring,
    random or anchor; default all), `rivals` (of each candidate, for ring and random, default 2), and for verdicts those
    of `take_sampling`; `seed` is also that of the random pairs.
    """
    name = options.pop("question", "") or card.get("questions", {}).get("pairwise", _GENERAL)
    questions = load_wording(PairSet, "pairwise", name)
    by = take_choice(options, "by", "probability", _BY)
    if by == "probability" and (idle := (set(SAMPLING_OPTIONS) - {"seed"}) & set(options)):
        raise ValueError(f"option {min(idle)} is for verdicts, which are written; add by=verdict")
    return Pairwise(
        questions,
        criterion=tuple(one.strip() for one in options.pop("criterion", "overall").split(",")),
        task=options.pop("task", ""),
        by=by,
        margin=take_number(options, "margin", MARGIN, 0, 0.5),
        floor=take_number(options, "floor", FLOOR, 0, 1),
        scheme=take_choice(options, "pairs", "all", SCHEMES),
        rivals=take_whole(options, "rivals", 2),
        sampling=take_sampling(options),
    )


class PairSet(LabelWording):
    """`first` and `second` show the two edits, `questions` has a question a criterion, `answer` and `verdict` say how
    to answer it: with a label, the first edit's before the second's, or (where there is a `verdict`) with reasons as
    JSON with the key "winner".
    """

    places = {
        "shared": ({"instruction", "source"}, {"criteria", "task"}),
        "first": ({"edited"}, set()),
        "second": ({"edited"}, set()),
        "task": ({"task"}, set()),
        "criteria": ({"criteria"}, set()),
    }

    shared: str
    first: str
    second: str
    questions: dict[str, str] = Field(min_length=1)
    answer: str = ""
    verdict: str | None = None
    task: str | None = None
    criteria: str | None = None

    @field_validator("labels")
    @classmethod
    def _two(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(labels) != 2:
            raise ValueError(f"labels are those of the first and the second edit, got {list(labels)}")
        return labels

    def prompt(
        self, group: Group, orders: Sequence[tuple[int, int]], criterion: Sequence[str], task: str, by: str
    ) -> Prompt:
        """Questions about pairs of candidates in the orders given, which are sorted; answers come order by order."""
        tail, prefix = (self.verdict or "", "") if by == "verdict" else (self.answer, self.prefix)
        texts = [f"{self.questions[one].strip()}\n{tail.strip()}".strip() for one in criterion]
        asked = tuple(Prompt((Fixed(text),), answer=prefix) for text in texts)
        branches = []
        for first, those in groupby(orders, key=lambda order: order[0]):
            seconds = tuple(Prompt(fill(self.second, edited=group.edited[other]), asked) for _, other in those)
            branches.append(Prompt(fill(self.first, edited=group.edited[first]), seconds))
        extra = {
            "criteria": optional(self.criteria, criteria=group.criteria),
            "task": optional(self.task, task=task),
        }
        return Prompt(fill(self.shared, instruction=group.instruction, source=group.source, **extra), tuple(branches))

    @property
    def verdict_schema(self) -> dict[str, Any]:
        """JSON schema of a verdict."""
        winner = {"type": "string", "enum": [*self.labels, "tie"]}
        return {
            "type": "object",
            "properties": {"reasoning": {"type": "string"}, "winner": winner},
            "required": ["reasoning", "winner"],
            "additionalProperties": False,
        }


class Pairwise:
    """`overall` is a win rate; `dims` are those of the criteria, where they are other than overall."""

    def __init__(
        self,
        questions: PairSet,
        *,
        criterion: Sequence[str] = ("overall",),
        task: str = "",
        by: str = "probability",
        margin: float = MARGIN,
        floor: float = FLOOR,
        scheme: str = "all",
        rivals: int = 2,
        sampling: Sampling | None = None,
    ) -> None:
        for one in criterion:
            if one not in questions.questions:
                raise unknown(f"criterion of {questions.version}", one, questions.questions)
        if task and questions.task is None:
            raise ValueError(f"option task: question set {questions.version} has no place for it (a text `task`)")
        if by == "verdict" and questions.verdict is None:
            raise ValueError(f"option by=verdict: question set {questions.version} does not ask for one (`verdict`)")
        sampling = sampling or Sampling()
        self.questions, self.criterion, self.task, self.by = questions, tuple(criterion), task, by
        self.margin, self.floor, self.scheme, self.rivals = margin, floor, scheme, rivals
        self.sampling = replace(sampling, schema=questions.verdict_schema)
        self.version = questions.version
        self.dims = tuple(one for one in self.criterion if one != "overall")
        self._provenance: dict[str, Any] = {
            "way": "pairwise",
            "by": by,
            "criterion": ",".join(criterion),
            "task": task,
            "margin": margin,
            **(described(sampling) if by == "verdict" else {}),
        }

    def check(self, backend: Backend) -> None:
        if self.by == "probability":
            self.questions.check(backend)

    def compare(
        self, groups: Sequence[Group], pairs: Sequence[Sequence[tuple[int, int]]], backend: Backend
    ) -> list[list[Preference]]:
        orders = [sorted({order for i, j in own for order in ((i, j), (j, i))}) for own in pairs]
        asked = [place for place, own in enumerate(orders) if own]
        prompts = [
            self.questions.prompt(groups[place], orders[place], self.criterion, self.task, self.by) for place in asked
        ]
        found: list[list[Preference]] = [[] for _ in groups]
        for place, answers in zip(asked, self._ask(prompts, backend), strict=True):
            each = len(self.criterion)
            of = {order: answers[i * each : (i + 1) * each] for i, order in enumerate(orders[place])}
            found[place] = [self._preference(of[i, j], of[j, i]) for i, j in pairs[place]]
        return found

    def score(self, groups: Sequence[Group], backend: Backend) -> list[list[Score]]:
        pairs = [schedule(group.edited, self.scheme, self.rivals, self.sampling.seed) for group in groups]
        told = self.compare(groups, pairs, backend)
        return [
            [self._score(place, own, preferences) for place in range(len(group.edited))]
            for group, own, preferences in zip(groups, pairs, told, strict=True)
        ]

    def _ask(self, prompts: Sequence[Prompt], backend: Backend) -> Sequence[Sequence[Any]]:
        if self.by == "verdict":
            return backend.generate(prompts, self.sampling)
        return backend.probabilities(prompts, self.questions.labels)

    def _preference(self, one: Sequence[Any], other: Sequence[Any]) -> Preference:
        """The preference from the answers to all criteria in the order of the pair and in the other order."""
        answers = {name: (a, b) for name, a, b in zip(self.criterion, one, other, strict=True)}
        if self.by == "verdict":
            preference = both_orders_written(answers, self.questions.labels)
        else:
            preference = both_orders_likely(answers, self.floor)
        return replace(preference, margin=self.margin, provenance=self._provenance)

    def _score(self, place: int, pairs: Sequence[tuple[int, int]], preferences: Sequence[Preference]) -> Score:
        """Win rate of one candidate."""
        own = [(i == place, one) for (i, j), one in zip(pairs, preferences, strict=True) if place in (i, j)]
        met = [(is_first, one) for is_first, one in own if one.ok]
        provenance = {**self._provenance, "pairs": self.scheme, "rivals": self.rivals, "floor": self.floor}
        raw = {"comparisons": float(len(met)), "comparisons_failed": float(len(own) - len(met))}
        if not own:
            error = "nothing to compare with: the only candidate of its source and instruction in this batch"
            return Score.failed("not_applicable", error, raw=raw, provenance=provenance)
        if not met:
            error = f"all {len(own)} comparisons failed; the first: {own[0][1].error}"
            return Score.failed(own[0][1].status, error, raw=raw, provenance=provenance)
        rates = {
            name: fmean(one.raw[f"{name}_share"] if is_first else 1 - one.raw[f"{name}_share"] for is_first, one in met)
            for name in self.criterion
        }
        raw["order_consistency"] = fmean(bool(one.consistent) for _, one in met)
        dims = {name: min(max(rates[name], 0.0), 1.0) for name in self.dims}
        overall = min(max(fmean(rates.values()), 0.0), 1.0)
        return Score(overall, dims, rationale=_rationale(met), raw=raw, provenance=provenance)


def _rationale(met: Sequence[tuple[bool, Preference]]) -> str | None:
    told = [f"as {'first' if is_first else 'second'}: {one.rationale}" for is_first, one in met if one.rationale]
    return "\n".join(told) or None
