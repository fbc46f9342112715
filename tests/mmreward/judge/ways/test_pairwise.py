"""Pairs in closed form: both orders, ties, win rates, and what fails."""

import json
import math

import pytest

from mmreward.judge.backends.backend import Sampling, Text
from mmreward.judge.labels import failed
from mmreward.judge.question import load_wording, question_names
from mmreward.judge.way import Group
from mmreward.judge.ways import load_way
from mmreward.judge.ways.pairwise import PairSet, Pairwise
from mmreward.judge.ways.schedule import SCHEMES, schedule

WORDS = load_wording(PairSet, "pairwise", "pairwise-1")
COLOURS = ("black", "red", "green", "blue", "white")


@pytest.fixture
def group(picture):
    return Group("make it blue", picture("gray"), tuple(map(picture, COLOURS[:3])))


def strength(image):
    return COLOURS.index(next(name for name in COLOURS if image.getpixel((0, 0)) == _rgb(name)))


def _rgb(name):
    from PIL import ImageColor

    return ImageColor.getrgb(name)


def stronger(bias=0.0, slope=0.1):
    """P(A) = 1/2 + slope x difference of strength + bias for the first place."""

    def likely(asked):
        p = 0.5 + slope * (strength(asked.images[1]) - strength(asked.images[2])) + bias
        return p, 1 - p

    return likely


def test_p_is_the_mean_of_both_orders_and_a_bias_for_a_place_cancels(group, scripted):
    way = Pairwise(WORDS)
    for bias in (0.0, 0.15):
        backend = scripted(stronger(bias))
        ((preference,),) = way.compare([group], [[(2, 0)]], backend)
        assert preference.first == pytest.approx(0.7)
        assert (preference.tie, preference.verdict, preference.consistent) == (0, "first", True)
        assert preference.raw["overall_shown_first"] == pytest.approx(0.7 + bias)
        assert preference.raw["overall_shown_second"] == pytest.approx(0.7 - bias)
        ((swapped,),) = way.compare([group], [[(0, 2)]], backend)
        assert swapped.first == pytest.approx(0.3) and swapped.verdict == "second"


def test_a_bias_greater_than_the_difference_is_no_consistent_preference(group, scripted):
    ((preference,),) = Pairwise(WORDS).compare([group], [[(1, 0)]], scripted(stronger(0.2)))
    assert preference.first == pytest.approx(0.6) and not preference.consistent


def test_close_to_a_half_is_a_tie_by_the_stated_margin(group, scripted):
    backend = scripted(stronger(slope=0.04))
    for margin, verdict in ((0.03, "first"), (0.04, "tie"), (0.3, "tie")):
        ((preference,),) = Pairwise(WORDS, margin=margin).compare([group], [[(1, 0)]], backend)
        assert (preference.verdict, preference.margin) == (verdict, margin)
        assert preference.first == pytest.approx(0.54)


def test_only_the_probability_on_the_labels_counts_and_too_little_is_a_failure(group, scripted):
    backend = scripted(lambda asked: (0.45, 0.15))
    ((preference,),) = Pairwise(WORDS, floor=0.6).compare([group], [[(0, 1)]], backend)
    assert preference.raw["overall_shown_first"] == pytest.approx(0.75)
    ((preference,),) = Pairwise(WORDS, floor=0.7).compare([group], [[(0, 1)]], backend)
    assert preference.status == "parse_error" and math.isnan(preference.first) and preference.verdict is None


def test_what_is_asked_and_in_which_order(group, scripted):
    backend = scripted(stronger())
    way = Pairwise(WORDS, criterion=("quality", "preservation"), task="recolour")
    way.compare([group], [[(0, 1), (0, 2)]], backend)
    ((prompt,),) = backend.prompts
    paths = list(prompt.paths())
    shown = [[COLOURS[strength(p)] for p in path if not hasattr(p, "text")][1:] for path in map(_no_source, paths)]
    orders = [("black", "red"), ("black", "green"), ("red", "black"), ("green", "black")]
    assert shown == [list(order)[1:] for order in orders for _ in range(2)]
    assert len(prompt.branches) == 3  # what is shown first is shared
    assert WORDS.questions["preservation"].strip() in paths[1][-1].text
    assert [piece.text for piece in paths[0] if type(piece).__name__ == "Given"] == ["recolour", "make it blue"]


def _no_source(path):
    return [piece for piece in path if hasattr(piece, "text") or piece.getpixel((0, 0)) != _rgb("gray")]


def verdicts(table):
    """A writer that names the winner for (first shown, second shown)."""

    def write(asked, number):
        shown = tuple(COLOURS[strength(image)] for image in asked.images[1:])
        winner = table[shown]
        winner = winner[number] if isinstance(winner, list) else winner
        return winner if isinstance(winner, Text) else json.dumps({"reasoning": f"{shown[0]} first", "winner": winner})

    return write


@pytest.mark.parametrize(
    ("forward", "backward", "first", "tie", "consistent"),
    [
        ("A", "B", 1, 0, True),
        ("B", "A", 0, 0, True),
        ("A", "A", 0, 1, False),
        ("tie", "tie", 0, 1, True),
        ("A", "tie", 0, 1, False),
    ],
)
def test_a_verdict_counts_where_both_orders_agree(group, scripted, forward, backward, first, tie, consistent):
    backend = scripted(write=verdicts({("black", "red"): forward, ("red", "black"): backward}))
    ((preference,),) = Pairwise(WORDS, by="verdict").compare([group], [[(0, 1)]], backend)
    assert (preference.first, preference.tie, preference.consistent) == (first, tie, consistent)
    assert preference.verdict == {(1, 0): "first", (0, 0): "second", (0, 1): "tie"}[first, tie]
    assert "black first" in preference.rationale and "red first" in preference.rationale


def test_passes_vote_and_a_failed_one_is_counted(group, scripted):
    bad = Text("I would rather not say")
    table = {("black", "red"): ["A", "A", bad, "A"], ("red", "black"): ["B", "A", "B", "B"]}
    way = Pairwise(WORDS, by="verdict", sampling=Sampling(passes=4, temperature=0.7))
    ((preference,),) = way.compare([group], [[(0, 1)]], scripted(write=verdicts(table)))
    assert (preference.first, preference.tie) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert preference.raw["overall_passes_failed"] == 1 and not preference.consistent
    table = {key: [bad] * 4 for key in table}
    ((preference,),) = way.compare([group], [[(0, 1)]], scripted(write=verdicts(table)))
    assert preference.status == "parse_error" and "I would rather" in preference.rationale


def test_win_rates_of_all_pairs(group, scripted):
    scores = Pairwise(WORDS).score([group], scripted(stronger()))[0]
    assert [score.overall for score in scores] == pytest.approx([0.35, 0.5, 0.65])
    assert all(score.raw["comparisons"] == 2 and score.raw["order_consistency"] == 1 for score in scores)
    assert scores[0].provenance["pairs"] == "all"


def test_criteria_are_dimensions_and_overall_their_mean(group, scripted):
    def likely(asked):
        p = 0.9 if "freer of blur" in asked.fixed else 0.5
        return (p, 1 - p) if strength(asked.images[1]) > strength(asked.images[2]) else (1 - p, p)

    way = Pairwise(WORDS, criterion=("instruction_following", "quality"))
    assert way.dims == ("instruction_following", "quality")
    best = way.score([group], scripted(likely))[0][2]
    assert best.dims == {"instruction_following": pytest.approx(0.5), "quality": pytest.approx(0.9)}
    assert best.overall == pytest.approx(0.7)


def test_win_rates_do_not_depend_on_the_order_of_candidates(group, scripted, picture):
    five = Group("x", picture("gray"), tuple(map(picture, COLOURS)))
    turned = Group("x", five.source, tuple(reversed(five.edited)))
    for scheme in SCHEMES:
        way = Pairwise(WORDS, scheme=scheme, rivals=2)
        one = [score.overall for score in way.score([five], scripted(stronger()))[0]]
        other = [score.overall for score in way.score([turned], scripted(stronger()))[0]]
        assert one == pytest.approx(other[::-1])


def test_failed_comparisons_are_left_out_and_counted(group, scripted):
    def likely(asked):
        if {strength(image) for image in asked.images[1:]} == {0, 1}:
            return failed("timeout", "no answer in 3 s")
        return stronger()(asked)

    scores = Pairwise(WORDS).score([group], scripted(likely))[0]
    assert scores[0].overall == pytest.approx(0.3) and scores[0].raw["comparisons_failed"] == 1
    scores = Pairwise(WORDS).score([group], scripted(lambda asked: failed("timeout", "no answer in 3 s")))[0]
    assert {score.status for score in scores} == {"timeout"} and all(math.isnan(score.overall) for score in scores)


def test_an_edit_without_company_has_no_win_rate_and_nothing_is_asked(group, scripted, picture):
    backend = scripted(stronger())
    lonely = Group("x", picture("gray"), (picture("red"),))
    scores = Pairwise(WORDS).score([lonely, group], backend)
    assert scores[0][0].status == "not_applicable" and scores[1][0].ok
    assert len(backend.prompts[0]) == 1


@pytest.mark.parametrize(("scheme", "each"), [("all", 5), ("ring", 2), ("ring", 4), ("random", 2), ("anchor", 1)])
def test_sparse_pairs_reach_every_candidate(picture, scheme, each):
    images = [picture((40 * i, 0, 0)) for i in range(6)]
    pairs = schedule(images, scheme, each, seed=3)
    met = [sum(i in pair for pair in pairs) for i in range(6)]
    assert len({frozenset(pair) for pair in pairs}) == len(pairs) and all(i != j for i, j in pairs)
    if scheme == "anchor":
        assert sorted(met) == [1, 1, 1, 1, 1, 5]
    elif scheme == "random":
        assert min(met) >= each and pairs == schedule(images, scheme, each, seed=3)
        assert any(pairs != schedule(images, scheme, each, seed=seed) for seed in range(5))
    else:
        assert met == [each] * 6


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_small_groups(picture, scheme, count):
    images = [picture((40 * i, 0, 0)) for i in range(count)]
    assert len(schedule(images, scheme, 9)) == (count * (count - 1) // 2 if scheme != "anchor" else max(count - 1, 0))


@pytest.mark.parametrize("name", question_names("pairwise"))
def test_bundled_sets_load(name):
    assert load_wording(PairSet, "pairwise", name).version == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "qality"}, "Did you mean 'quality'"),
        ({"by": "votes"}, "unknown by 'votes'"),
        ({"pairs": "rings"}, "Did you mean 'ring'"),
        ({"margin": "0.6"}, "margin must be a number from 0 to 0.5"),
        ({"passes": "3"}, "add by=verdict"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_way("pairwise", options)


def test_labels_are_checked_for_probabilities_only(scripted):
    words = WORDS.model_copy(update={"labels": ("first", "second")})
    with pytest.raises(ValueError, match="single tokens"):
        Pairwise(words).check(scripted())
    Pairwise(words, by="verdict").check(scripted())
