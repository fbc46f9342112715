"""Combinations against hand-worked numbers, and what failures of members do."""

import math

import pytest
from PIL import Image

from mmreward import Combination, Edit, Failure, Score, load_reward
from mmreward.combine import BaseAndBonus, Geometric, Member, Minimum, Weighted
from mmreward.config import ConfigError
from mmreward.edit import ImageError
from mmreward.reward import Reward

EDIT = Edit("make it blue", Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8)))


class Fixed(Reward):
    """Says the same of every edit, and applies to all of them unless `outside` says why not."""

    def __init__(self, name, score, dims=None, outside=None):
        self.name, self._score, self.outside, self.asked = name, score, outside, 0
        self.dims = tuple(score.dims) if dims is None else dims

    def applies(self, edit):
        return Failure("not_applicable", self.outside) if self.outside else None

    def score(self, edits):
        self.asked += len(edits)
        return [self._score for _ in edits]


class Dimensions(Fixed):
    """Has dimensions and no overall."""

    has_overall = False

    def __init__(self, **dims):
        super().__init__("dimensions", Score(math.nan, dims, has_overall=False))


def member(overall=0.5, optional=False, **dims):
    return Member(Fixed("fixed", Score(overall, dims, raw={"logit": 2.0}, rationale="because")), optional)


def failing(status="timeout", optional=False, dims=()):
    return Member(Fixed("failing", Score.failed(status, "no answer"), dims), optional)


def outside(dims=(), status="not_applicable"):
    """An optional member that does not apply to the task."""
    return Member(Fixed("outside", Score.failed(status, "a photo"), dims, "a photo"), optional=True)


def one(overall, dims=None, **members):
    (score,) = Combination("test", members, overall, dims).score([EDIT])
    return score


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Weighted(weights={"a": 3, "b": 1}), (3 * 0.8 + 1 * 0.2) / 4),  # 0.65
        (Geometric(weights={"a": 1, "b": 1}), 0.4),  # sqrt(0.8 x 0.2) = sqrt(0.16)
        (Geometric(weights={"a": 3, "b": 1}), 0.8**0.75 * 0.2**0.25),
        (Minimum(of=["a", "b"]), 0.2),
        (BaseAndBonus(base="a", bonus={"b": 0.4}), 0.544),  # 0.8 x (0.6 + 0.4 x 0.2) = 0.8 x 0.68
        (BaseAndBonus(base="b", bonus={"a": 0.4}), 0.184),  # 0.2 x (0.6 + 0.4 x 0.8) = 0.2 x 0.92
        (BaseAndBonus(base="a"), 0.8),
    ],
)
def test_methods(method, expected):
    score = one(method, {}, a=member(0.8), b=member(0.2))
    assert score.ok and score.overall == pytest.approx(expected, abs=1e-12)


def test_base_and_bonus_is_the_formula_of_the_oracle():
    """following x (0.6 + 0.4 preservation) x (0.5 + 0.5 quality) = 1 x 0.8 x 0.9"""
    method = BaseAndBonus(base="instruction_following", bonus={"preservation": 0.4, "quality": 0.5})
    score = one(method, a=member(0, instruction_following=1.0, preservation=0.5, quality=0.8))
    assert score.overall == pytest.approx(0.72)


def test_an_edit_that_keeps_everything_and_does_nothing_gets_nothing():
    method = BaseAndBonus(base="instruction_following", bonus={"preservation": 0.4})
    assert one(method, a=member(0.5, instruction_following=0.0, preservation=1.0)).overall == 0


def test_dimensions_are_weighted_means_over_members():
    a, b = member(0.9, quality=0.8, preservation=0.4), member(0.1, quality=0.2)
    score = one(Minimum(of=["quality"]), {"quality": {"a": 1, "b": 2}}, a=a, b=b)
    assert score.dims == {"quality": pytest.approx(0.4)} and score.overall == score.dims["quality"]
    plain = one(Minimum(of=["quality"]), a=a, b=b)
    assert plain.dims == {"quality": pytest.approx(0.5), "preservation": pytest.approx(0.4)}


def test_everything_a_member_said_is_kept_under_its_name():
    """Also where a raw number is called like a dimension or like "overall"."""
    loud = Score(0.5, {"quality": 0.8}, raw={"overall": 17.0, "quality": 3.2}, rationale="because")
    score = one(Minimum(of=["a"]), a=Member(Fixed("loud", loud)), b=member(0.9))
    assert score.parts["a"] is loud and score.parts["b"].overall == 0.9 and score.raw == {}
    assert score.rationale == "a: because\nb: because" and score.provenance["reward"] == "test"


def test_parts_of_a_combination_in_a_combination_and_of_a_failure():
    inner = Combination("inner", {"x": member(0.3), "y": failing("refused")}, Minimum(of=["x"]), {})
    score = one(Minimum(of=["inner"]), {}, inner=Member(inner))
    assert score.status == "refused" and score.error == "inner: y: no answer"
    assert score.parts["inner"].parts["x"].overall == 0.3 and score.parts["inner"].parts["y"].status == "refused"


def test_a_failed_member_fails_the_combination_with_its_status():
    score = one(Weighted(weights={"a": 1, "b": 1}), {}, a=member(0.8), b=failing("refused"))
    assert score.status == "refused" and math.isnan(score.overall) and score.error == "b: no answer"


def test_members_that_fail_alike_are_named_together():
    score = one(Minimum(of=["a"]), {}, a=failing("refused"), b=failing("timeout"))
    assert (score.status, score.error) == ("refused", "a, b: no answer")


def test_one_that_does_not_apply_hides_no_fault_of_another():
    score = one(Minimum(of=["a"]), {}, a=failing("not_applicable"), b=failing("io_error"))
    assert (score.status, score.error) == ("io_error", "b: no answer")


def test_an_optional_member_is_left_out_of_tasks_that_it_does_not_apply_to():
    """0.8 x 1/4 + 0.6 x 2/4 + b, which is left out: weights 1/3 and 2/3."""
    b = outside(dims=("quality",))
    a, c = member(0.8, quality=0.4), member(0.6)
    score = one(Weighted(weights={"a": 1, "b": 1, "c": 2}), a=a, b=b, c=c)
    assert score.ok and score.overall == pytest.approx(0.8 / 3 + 0.6 * 2 / 3) and score.dims == {"quality": 0.4}
    assert score.provenance["left_out"] == {"b": "a photo"} and b.reward.asked == 0
    assert score.provenance["weights"] == {"overall": pytest.approx({"a": 1 / 3, "c": 2 / 3}), "quality": {"a": 1.0}}
    assert score.parts["b"].status == "not_applicable"


@pytest.mark.parametrize("status", ["not_applicable", "io_error", "timeout", "parse_error", "refused", "error"])
def test_an_optional_member_that_fails_at_a_candidate_fails_the_combination(status):
    """(0.9, 0.1) with equal weights is 0.5; leaving out what fails would make it 0.9."""
    score = one(Weighted(weights={"a": 1, "b": 1}), {}, a=member(0.9), b=failing(status, optional=True))
    assert score.status == status and math.isnan(score.overall) and "left_out" not in score.provenance


def test_no_candidate_has_a_say_in_what_is_left_out():
    """A reward whose `applies` cannot open the source, or says another status than not_applicable, is asked."""

    class Unsure(Fixed):
        def applies(self, edit):
            raise ImageError("gone")

    unsure = Member(Unsure("unsure", Score(0.1)), optional=True)
    assert one(Weighted(weights={"a": 1, "b": 1}), {}, a=member(0.9), b=unsure).overall == pytest.approx(0.5)


@pytest.mark.parametrize("method", [Minimum(of=["a", "b"]), Geometric(weights={"a": 1, "b": 1})])
def test_methods_that_need_all_take_no_optional_member(method):
    with pytest.raises(ConfigError, match=f"'b' counts in a method that needs all .*{method.method}.*b is optional"):
        one(method, {}, a=member(0.9), b=member(0.1, optional=True))
    by_dimension = type(method).model_validate(method.model_dump() | {"of": ["q"]} if "of" in method.model_dump() else
                                               method.model_dump() | {"weights": {"q": 1}})  # fmt: skip
    with pytest.raises(ConfigError, match="'q' counts in a method that needs all"):
        one(by_dimension, {"q": {"a": 1, "b": 1}}, a=member(0.9, q=1), b=member(0.1, optional=True, q=1))
    assert one(by_dimension, {"q": {"a": 1}}, a=member(0.9, q=1), b=member(0.1, optional=True, q=1)).overall == 1


def test_what_only_an_optional_member_measures_is_not_invented():
    dims = {"preservation": {"b": 1.0}}
    b = outside(dims=("preservation",))
    score = one(BaseAndBonus(base="a", bonus={"preservation": 0.4}), dims, a=member(0.8), b=b)
    assert score.status == "not_applicable" and score.error.endswith(
        "measured preservation here (left out: b: a photo)"
    )
    alone = one(Weighted(weights={"b": 1}), {}, b=outside())
    assert alone.status == "not_applicable" and "left out: b: a photo" in alone.error


@pytest.mark.parametrize(
    ("method", "fails"),
    [(Minimum(of=["preservation", "a"]), True), (Geometric(weights={"preservation": 1, "a": 1}), True),
     (BaseAndBonus(base="a", bonus={"preservation": 1}), True), (Weighted(weights={"preservation": 1, "a": 1}), False)],
)  # fmt: skip
def test_a_dimension_that_no_member_measured_here_is_no_factor_of_one(method, fails):
    quiet = Member(Fixed("quiet", Score(0.5), dims=("preservation",)))
    score = one(method, a=quiet)
    assert score.status == ("not_applicable" if fails else "ok")
    if fails:
        assert "no member measured preservation" in score.error
    else:
        assert score.provenance["weights"] == {"overall": {"a": 1.0}}
    whole = one(method, a=member(0.5, preservation=0.5))
    assert whole.ok and not {"weights", "left_out"} & set(whole.provenance)


def test_a_combination_applies_where_its_members_do():
    def applies(**members):
        return Combination("test", members, Weighted(weights=dict.fromkeys(members, 1)), {}).applies(EDIT)

    required = Member(outside().reward)
    assert applies(a=member(), b=required) == Failure("not_applicable", "b: a photo")
    assert applies(a=member(), b=outside()) is None and applies(b=outside()).error == "b: a photo"
    inner = Combination("inner", {"a": member(), "b": required}, Weighted(weights={"a": 1}), {})
    score = one(Weighted(weights={"c": 1, "inner": 1}), {}, c=member(0.7), inner=Member(inner, optional=True))
    assert score.overall == 0.7 and score.provenance["left_out"] == {"inner": "b: a photo"}


def test_members_without_an_overall_give_their_dimensions():
    d = Member(Dimensions(quality=0.4, preservation=1.0))
    score = one(Weighted(weights={"quality": 1, "a": 1}), d=d, a=member(0.8))
    assert score.overall == pytest.approx(0.6) and score.dims == {"quality": 0.4, "preservation": 1.0}
    with pytest.raises(ConfigError, match="'d' measures dimensions and has no overall.*quality, preservation"):
        one(Minimum(of=["d"]), d=d)


def test_a_combination_without_an_overall():
    mapping = {"members": {"p": "pixels"}, "overall": None}
    reward = load_reward(mapping)
    (score,) = reward.score([EDIT])
    assert not reward.has_overall and score.ok and math.isnan(score.overall) and not score.has_overall
    assert score.dims == {"preservation": 1.0, "quality": 1.0} and score.parts["p"].overall == 1.0
    with pytest.raises(ConfigError, match="missing key 'overall'"):
        load_reward({"members": {"p": "pixels"}})
    with pytest.raises(ConfigError, match="needs dimensions"):
        Combination("none", {"a": member()}, None)


def test_a_member_that_compares_makes_the_combination_one_that_needs_groups():
    class Compares(Fixed):
        needs_group = True

    combination = Combination("test", {"a": member(), "b": Member(Compares("b", Score(0.5)))}, Minimum(of=["a"]))
    assert combination.needs_group and not Combination("test", {"a": member()}, Minimum(of=["a"])).needs_group


def test_a_member_that_returns_too_few_scores_is_named():
    class Forgetful(Fixed):
        def score(self, edits):
            return super().score(edits)[1:]

    combination = Combination("test", {"a": Member(Forgetful("forgetful", Score(0.5)))}, Minimum(of=["a"]))
    with pytest.raises(ValueError, match="'forgetful' returned 2 scores for 3 edits"):
        combination.score([EDIT] * 3)


def test_one_score_per_edit_in_order():
    combination = Combination("test", {"a": member(0.8)}, Minimum(of=["a"]))
    assert len(combination.score([EDIT] * 3)) == 3 and combination.score([]) == []


def test_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nmembers:\n  p: pixels\n  q: {reward: pixels, optional: true}\n"
        "overall: {method: weighted, weights: {preservation: 1, quality: 1}}\n"
    )
    reward = load_reward(tmp_path / "mine.yaml")
    (score,) = reward.score([EDIT])
    assert reward.name == "mine" and reward.dims == ("preservation", "quality") and score.overall == 1.0


def test_a_combination_of_a_combination():
    inner = {"members": {"p": "pixels"}, "overall": {"method": "minimum", "of": ["p"]}}
    outer = {"members": {"inner": {"reward": inner}}, "overall": {"method": "minimum", "of": ["inner"]}}
    assert load_reward(outer).score([EDIT])[0].overall == 1.0


MINIMUM = {"method": "minimum", "of": ["p"]}


def write(folder, name, member):
    (folder / name).write_text(f"members: {{p: '{member}'}}\noverall: {{method: minimum, of: [p]}}\n")
    return folder / name


def test_a_combination_that_contains_itself_is_refused(tmp_path):
    itself = write(tmp_path, "itself.yaml", tmp_path / "itself.yaml")
    with pytest.raises(ConfigError, match=r"itself.yaml contains itself \(itself.yaml -> itself.yaml\)"):
        load_reward(itself)
    first = write(tmp_path, "first.yaml", tmp_path / "other" / ".." / "second.yaml")
    (tmp_path / "other").mkdir()
    write(tmp_path, "second.yaml", first)
    with pytest.raises(ConfigError, match=r"contains itself \(first.yaml -> second.yaml -> first.yaml\)"):
        load_reward(first)
    third = write(tmp_path, "third.yaml", write(tmp_path, "plain.yaml", "pixels"))
    assert load_reward(third).score([EDIT])[0].ok  # twice the same file beside each other is none of it
    assert load_reward({"members": {"p": str(third), "q": str(third)}, "overall": MINIMUM}).score([EDIT])[0].ok


def test_a_recipe_that_contains_itself_is_refused(tmp_path, monkeypatch):
    from mmreward.reward import RECIPES

    monkeypatch.setitem(RECIPES, "round", write(tmp_path, "round.yaml", "round"))
    with pytest.raises(ConfigError, match="round.yaml contains itself"):
        load_reward("round")


def test_a_mapping_that_contains_itself_is_refused(tmp_path):
    (tmp_path / "anchor.yaml").write_text("&top\nmembers: {p: {reward: *top}}\noverall: {method: minimum, of: [p]}\n")
    with pytest.raises(ConfigError, match=r"anchor.yaml holds combinations .* does one contain itself\?$"):
        load_reward(tmp_path / "anchor.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"membres": {}}, "unknown key 'membres'; did you mean 'members'?"),
        ({"members": {}}, "members: Dictionary should have at least 1 item"),
        ({"members": {"p": {"reward": "pixels", "optinal": True}}}, "did you mean 'optional'?"),
        ({"members": ["pixels"]}, "members: should be a mapping of names to rewards"),
        ({"members": {"p": 3}}, "'p' should be a name, a YAML path or {reward: …, optional: true}, got int"),
        ({"members": {"p": {"reward": 3}}}, "member 'p': a reward is a name, a YAML path or a mapping, got int"),
        ({"members": {"p": {"members": {"q": "pixels"}}}}, "got a combination; write it behind reward:"),
        ({"members": {"p": "pixls"}}, "member 'p': unknown reward 'pixls'. Did you mean 'pixels'?"),
        ({"overall": "minimum"}, "overall: should name its method"),
        ({"overall": {"of": ["p"]}}, "overall: should name its method"),
        ({"overall": {"method": "minimal", "of": ["p"]}}, "'minimum'"),
        ({"overall": {"method": "minimum", "off": ["p"]}}, "did you mean 'of'?"),
        ({"overall": {"method": "minimum", "of": ["qality"]}}, "Did you mean 'quality'?"),
        ({"overall": {"method": "weighted", "weights": {"p": -1}}}, "greater than 0"),
        ({"overall": {"method": "weighted", "weights": {"p": math.nan}}}, "weights"),
        ({"overall": {"method": "base_and_bonus", "base": "p", "bonus": {"quality": 1.5}}}, "less than or equal to 1"),
        ({"dims": {"quality": {"q": 1}}}, "unknown member 'q'. There is: p."),
        ({"dims": {"instruction_following": {"p": 1}}}, "'p' does not measure it; it measures: preservation, quality"),
        ({"members": {"quality": "pixels"}}, "'quality' is a dimension"),
    ],
)  # fmt: skip
def test_a_wrong_mapping_names_the_key(changes, message):
    with pytest.raises(ValueError) as raised:
        load_reward({"members": {"p": "pixels"}, "overall": MINIMUM, **changes})
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "line 1 is not YAML"), ("- a\n- b\n", "should hold `key: value` lines, got list"), ("", "got NoneType"),
     ("a: !!python/object/apply:os.system ['true']", "is not YAML")],
)  # fmt: skip
def test_a_file_that_is_no_recipe(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_reward(str(tmp_path / "r.yaml"))
