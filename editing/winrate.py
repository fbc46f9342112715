"""Win rates: scores of the members of a group from comparisons with each other, for Pref-GRPO.

    overall = mean over comparisons of [ P(better) + 1/2 P(tie) ]

It is a reward that only exists inside a group, which is why it lives beside the trainer and not among the rewards: the
same edit has another win rate in other company. As a wrapper of a reward that compares, it leaves scoring, failures,
advantages and pictures as they are for any other reward. A comparison that failed is left out and counted in `raw`; a
member of which no comparison came through has that failure's status.

All pairs of a group cost members * (members - 1) / 2 comparisons; with `rivals` each member meets about so many others,
its neighbours on a ring.
"""

__all__ = ["WinRates", "judge_of"]

from collections import defaultdict
from collections.abc import Sequence

from editing.algorithms.algorithm import Needs
from mmreward.config import ConfigError
from mmreward.edit import Edit, ImageError
from mmreward.preference import Comparer, Preference, comparer
from mmreward.reward import Reward
from mmreward.score import Score


class WinRates(Reward):
    """`overall` is the share of comparisons that an edit wins inside its group, in [0, 1]; a tie counts half."""

    dims: tuple[str, ...] = ("win_rate",)

    def __init__(self, comparer: Comparer, rivals: int | None = None, name: str = "win rate") -> None:
        self.comparer, self.rivals, self.name = comparer, rivals, name

    @property
    def needs_group(self) -> bool:
        """Always: a win rate is one among the members of a group."""
        return True

    def score(self, edits: Sequence[Edit]) -> list[Score]:
        members: dict[str, list[int]] = defaultdict(list)
        unreadable: dict[int, Score] = {}
        for place, edit in enumerate(edits):
            try:
                edit.image("edited")
                members[edit.group].append(place)
            except ImageError as error:  # the others meet each other as if this row were not there
                unreadable[place] = Score.failed(error.status, error.message)
        pairs = [pair for places in members.values() for pair in _pairs(places, self.rivals)]
        found = self.comparer.compare([(edits[first], edits[second]) for first, second in pairs])
        outcomes: dict[int, list[float]] = defaultdict(list)
        failures: dict[int, list[Preference]] = defaultdict(list)
        for (first, second), preference in zip(pairs, found, strict=True):
            for place, share in ((first, preference.share), (second, 1 - preference.share)):
                if preference.ok:
                    outcomes[place].append(share)
                else:
                    failures[place].append(preference)
        return [unreadable.get(place) or self._score(outcomes[place], failures[place]) for place in range(len(edits))]

    def _score(self, outcomes: Sequence[float], failures: Sequence[Preference]) -> Score:
        raw = {"comparisons": float(len(outcomes)), "failed_comparisons": float(len(failures))}
        if outcomes:
            rate = min(1.0, max(0.0, sum(outcomes) / len(outcomes)))
            return Score(rate, {"win_rate": rate}, raw=raw, provenance={"reward": self.name})
        if failures:
            error = failures[0].error or "no comparison came through"
            return Score.failed(failures[0].status, f"all {len(failures)} comparisons failed: {error}", raw=raw)
        return Score.failed("not_applicable", "nothing to compare with: the only member of its group", raw=raw)


def judge_of(reward: Reward, needs: Needs) -> Reward:
    """What scores the samples: `reward`, or its win rates where the algorithm needs comparisons."""
    pairs = needs.pairs
    if pairs is None:
        return reward
    if pairs.by == "judge" and not isinstance(reward, Comparer):
        raise ConfigError(
            f"roles.reward: this algorithm learns from comparisons, and {reward.name!r} cannot compare two edits; use "
            "a judge with way=pairwise, for example vlm:tiny?way=pairwise, or set algorithm.by: scores"
        )
    return WinRates(comparer(reward, pairs.margin), pairs.rivals, f"win rate by {reward.name}")


def _pairs(places: Sequence[int], rivals: int | None) -> list[tuple[int, int]]:
    """Pairs of a group: all, or neighbours on a ring up to the distance that gives each member `rivals` others."""
    count = len(places)
    reach = count // 2 if rivals is None else min((rivals + 1) // 2, count // 2)
    chosen = {frozenset((i, (i + step) % count)): None for step in range(1, reach + 1) for i in range(count)}
    return [(places[min(pair)], places[max(pair)]) for pair in chosen]
