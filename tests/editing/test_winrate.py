"""Win rates inside groups, from a comparer whose answers are known."""

import pytest
from PIL import Image

from editing.algorithms.algorithm import Needs, Pairs
from editing.winrate import WinRates, judge_of
from mmreward.config import ConfigError
from mmreward.edit import Edit
from mmreward.preference import Preference
from mmreward.reward import Reward
from mmreward.score import Score


class Larger(Reward):
    """The edit with the greater number in `meta` wins; equal ones tie; the number 13 cannot be judged."""

    name, dims = "larger", ()

    def __init__(self):
        self.pairs = []

    def score(self, edits):
        return [Score(0.5) for _ in edits]

    def compare(self, pairs):
        found = []
        for pair in pairs:
            a, b = (edit.meta["n"] for edit in pair)
            self.pairs.append((a, b))
            if 13 in (a, b):
                found.append(Preference.failed("refused", "unlucky"))
            else:
                found.append(Preference(float(a > b), float(a == b)))
        return found


def edits(numbers, instruction="make it red"):
    source = Image.new("RGB", (8, 8))
    return [Edit(instruction, source, source, meta={"n": n}) for n in numbers]


def test_share_of_wins_with_ties_as_half():
    scores = WinRates(Larger()).score(edits([1, 5, 5, 9]))
    assert [score.overall for score in scores] == pytest.approx([0, 0.5, 0.5, 1])
    assert scores[0].raw == {"comparisons": 3, "failed_comparisons": 0}


def test_only_members_of_a_group_meet():
    comparer = Larger()
    scores = WinRates(comparer).score(edits([1, 2]) + edits([3, 4], "make it blue") + edits([7], "alone"))
    assert sorted(comparer.pairs) == [(1, 2), (3, 4)]
    assert [score.overall for score in scores[:4]] == [0, 1, 0, 1]
    assert scores[4].status == "not_applicable"


def test_failed_comparisons_are_left_out_and_a_member_without_any_has_no_score():
    scores = WinRates(Larger()).score(edits([1, 13, 2]))
    assert [score.overall for score in scores[::2]] == [0, 1]
    assert scores[0].raw == {"comparisons": 1, "failed_comparisons": 1}
    assert scores[1].status == "refused" and "all 2 comparisons failed: unlucky" in scores[1].error


@pytest.mark.parametrize("bad", [{"source": b"no image"}, {"source": "/nowhere.png"}, {"edited": b"no image"}])
@pytest.mark.parametrize("rivals", [None, 2])
def test_a_row_that_cannot_be_read_changes_nothing_for_the_others(bad, rivals):
    rows = edits([1, 5, 3, 9, 2])
    expected = WinRates(Larger(), rivals).score(rows)
    odd = Edit(
        **({"instruction": "make it red", "source": rows[0].source, "edited": rows[0].edited, "meta": {"n": 4}} | bad)
    )
    scores = WinRates(Larger(), rivals).score([*rows[:2], odd, *rows[2:]])
    assert scores.pop(2).status == "io_error"
    assert scores == expected


def test_win_rates_need_whole_groups():
    assert WinRates(Larger()).needs_group and not Larger().needs_group


@pytest.mark.parametrize(
    ("members", "rivals", "each"), [(8, 4, 4), (8, 3, 4), (8, 7, 7), (8, None, 7), (5, 2, 2), (2, 1, 1)]
)
def test_rivals_bound_the_comparisons_and_all_members_meet_as_many(members, rivals, each):
    comparer = Larger()
    scores = WinRates(comparer, rivals).score(edits(range(members)))
    assert len(comparer.pairs) == len(set(comparer.pairs)) == members * each / 2
    assert {score.raw["comparisons"] for score in scores} == {each}
    assert sum(score.overall for score in scores) == pytest.approx(members / 2)


def test_a_reward_that_cannot_compare_is_refused():
    class Plain(Reward):
        name, dims = "plain", ()

        def score(self, edits):
            return [Score(edit.meta["n"] / 10) for edit in edits]

    assert isinstance(judge_of(Plain(), Needs()), Plain)
    assert judge_of(Larger(), Needs(pairs=Pairs(rivals=2))).rivals == 2
    by_scores = judge_of(Plain(), Needs(pairs=Pairs("scores", margin=0.15)))
    assert [score.overall for score in by_scores.score(edits([1, 2, 9]))] == [0.25, 0.25, 1]
    with pytest.raises(ConfigError, match="'plain' cannot compare two edits; use a judge with way=pairwise"):
        judge_of(Plain(), Needs(pairs=Pairs()))
