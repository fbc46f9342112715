"""Rubrics in closed form: the formula, passes and their spread, and what fails."""

import json
import math

import pytest

from mmreward.judge.backends.backend import Sampling, Text
from mmreward.judge.question import load_wording, question_names
from mmreward.judge.way import Group
from mmreward.judge.ways import load_way
from mmreward.judge.ways.rubric import Rubric, RubricSet


def written(*scores, reasoning="seen"):
    return json.dumps({"reasoning": reasoning, "score": list(scores)})


def rubric(name="rubric-10", votes="mean", **sampling):
    return Rubric(load_wording(RubricSet, "rubric", name), Sampling(**sampling), votes)


@pytest.fixture
def group(picture):
    return Group("make it blue", picture("red"), (picture("green"), picture("blue")), "keep the cup")


def by_images(together, alone):
    """A writer that tells the two questions apart by the number of images."""
    return lambda asked, number: (together if len(asked.images) == 2 else alone)(asked, number)


def test_the_minimum_within_each_and_the_geometric_mean_of_both(group, scripted):
    backend = scripted(write=by_images(lambda a, i: written(9, 4), lambda a, i: written(6, 9)))
    ((score, _),) = rubric().score([group], backend)
    assert score.overall == pytest.approx(math.sqrt(0.4 * 0.6))
    assert score.dims == {"instruction_following": 0.9, "preservation": 0.4, "quality": 0.6}
    assert {name: score.raw[name] for name in ("success", "over_edit", "naturalness", "artefacts")} == {
        "success": 9, "over_edit": 4, "naturalness": 6, "artefacts": 9,
    }  # fmt: skip
    assert score.rationale == "seen\nseen" and score.spread is None


def test_an_answer_in_the_words_of_the_question_is_read(group, scripted):
    """It asks for success and restraint, naturalness and clean work."""
    both = lambda a, i: "- **Success**: 9/10\n- **Restraint**: 4/10"  # noqa: E731
    alone = lambda a, i: '{"reasoning": "seen", "naturalness": 6, "clean work": 9}'  # noqa: E731
    score = rubric().score([group], scripted(write=by_images(both, alone)))[0][0]
    assert score.overall == pytest.approx(math.sqrt(0.4 * 0.6))
    assert (score.raw["over_edit"], score.raw["artefacts"]) == (4, 9)


def test_a_scale_to_25_gives_the_same_formula(group, scripted):
    backend = scripted(write=by_images(lambda a, i: written(20, 25), lambda a, i: written(25, 5)))
    score = rubric("rubric-25").score([group], backend)[0][0]
    assert score.overall == pytest.approx(math.sqrt(0.8 * 0.2))
    assert backend.samplings[0].schema["properties"]["score"]["items"]["maximum"] == 25


def test_what_is_shown(group, scripted, picture):
    backend = scripted(write=by_images(lambda a, i: written(1, 1), lambda a, i: written(1, 1)))
    rubric().score([group], backend)
    together, alone = backend.prompts[0]
    paths = list(together.paths())
    assert [piece for piece in paths[1] if not hasattr(piece, "text")] == [group.source, group.edited[1]]
    assert [[p for p in path if not hasattr(p, "text")] for path in alone.paths()] == [[one] for one in group.edited]
    given = [piece.text for piece in paths[0] if type(piece).__name__ == "Given"]
    assert given == ["make it blue", "keep the cup"]
    assert "make it blue" not in "".join(p.text for p in next(alone.paths()) if hasattr(p, "text"))


def test_passes_are_averaged_after_the_formula_with_their_spread(group, scripted):
    marks = [(10, 10), (5, 5), (0, 9)]
    backend = scripted(write=by_images(lambda a, i: written(*marks[i]), lambda a, i: written(10, 10)))
    score = rubric(passes=3, temperature=0.7, seed=5).score([group], backend)[0][0]
    each = [1, math.sqrt(0.5), 0]
    mean = sum(each) / 3
    assert score.overall == pytest.approx(mean)
    assert score.spread.kind == "passes"
    assert score.spread.value == pytest.approx(math.sqrt(sum((one - mean) ** 2 for one in each) / 2))
    assert score.dims["instruction_following"] == pytest.approx(0.5)
    assert (score.provenance["passes"], score.provenance["seed"]) == (3, 5)
    assert (backend.samplings[0].passes, backend.samplings[0].seed) == (3, 5)
    median = rubric(votes="median", passes=3, temperature=0.7).score([group], backend)[0][0]
    assert median.overall == pytest.approx(math.sqrt(0.5)) and median.dims["preservation"] == 0.9


def test_a_failed_pass_is_left_out_and_counted(group, scripted):
    texts = [written(8, 8), "I think it is fine.", written(4, 4)]
    backend = scripted(write=by_images(lambda a, i: texts[i], lambda a, i: written(10, 10)))
    score = rubric(passes=3, temperature=1.0).score([group], backend)[0][0]
    assert score.raw["passes_failed"] == 1 and score.raw["passes"] == 3
    assert score.overall == pytest.approx((math.sqrt(0.8) + math.sqrt(0.4)) / 2)
    assert "I think it is fine." in score.rationale and "not read" in score.rationale


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("I'm sorry, I can't assist with that.", "refused", "declined"),
        ("", "parse_error", "both images: the answer is empty"),
        (written(11, 3), "parse_error", "off the scale"),
        (Text(written(8, 8), finished=False), "parse_error", "cut off"),
        (Text(status="timeout", error="no answer in 3 s"), "timeout", "no answer in 3 s"),
    ],
)
def test_without_a_readable_pass_there_is_no_score(group, scripted, text, status, message):
    backend = scripted(write=by_images(lambda a, i: text, lambda a, i: written(10, 10)))
    score = rubric().score([group], backend)[0][0]
    assert score.status == status and math.isnan(score.overall) and message in score.error
    several = rubric(passes=2, temperature=0.7).score([group], backend)[0][0]
    assert several.status == status and "all 2 passes failed" in several.error


def test_one_bad_candidate_leaves_the_other_alone(group, scripted):
    def together(asked, number):
        return written(9, 9) if asked.images[1] is group.edited[1] else "no"

    scores = rubric().score([group], scripted(write=by_images(together, lambda a, i: written(9, 9))))[0]
    assert [score.status for score in scores] == ["parse_error", "ok"]


@pytest.mark.parametrize("name", question_names("rubric"))
def test_bundled_rubrics_load(name):
    assert load_wording(RubricSet, "rubric", name).version == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passes": "0"}, "passes must be a whole number from 1"),
        ({"passes": "2", "temperature": "0"}, "makes all 2 passes the same"),
        ({"votes": "mode"}, "unknown votes 'mode'"),
        ({"question": "rubric-11"}, "Did you mean 'rubric-1"),
        ({"temperature": "nan"}, "temperature must be a number from 0 to 2"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_way("rubric", options)


def test_options_are_taken_and_others_left():
    options = {"passes": "4", "votes": "median", "colour": "red"}
    way = load_way("rubric", options)
    assert options == {"colour": "red"}
    assert (way.sampling.passes, way.sampling.temperature, way.votes) == (4, 0.7, "median")
