"""No measure has two roles, under any spelling; a monitor that is related to the reward is warned of."""

import json

import pytest

from editing import roles as module
from editing.roles import RolesConfig, check_roles, kinships, load_roles, measures
from mmreward.config import ConfigError
from mmreward.reward import Reward
from mmreward.score import Score

QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"
SPELLINGS = [
    f"vlm:{QWEN}",
    f"vlm:{QWEN}?way=rubric&dtype=bfloat16",
    f"vlm:{QWEN.lower()}/",
    f"openai:http://127.0.0.1:8000/v1#{QWEN}",
    f"openai:http://127.0.0.1:8000/v1/#{QWEN}?pixels=262144",
    f"openai:http://elsewhere:9/v1#{QWEN}",
]


@pytest.mark.parametrize("first", SPELLINGS)
@pytest.mark.parametrize("second", SPELLINGS)
def test_one_judge_is_one_measure_however_it_is_written(first, second):
    combined = {"members": {"judge": {"reward": second}, "pixels": "pixels"}}
    for monitor in (second, combined):
        with pytest.raises(ConfigError, match="is both reward and monitor"):
            check_roles(RolesConfig(reward=first, monitor=monitor))
    with pytest.raises(ConfigError, match="is both monitor and final"):
        check_roles(RolesConfig(reward="pixels", monitor=first, final=second))


def test_other_judges_are_other_measures():
    others = [*SPELLINGS[:1], "vlm:Qwen/Qwen2.5-VL-3B-Instruct", "openai:http://127.0.0.1:8000/v1#other", "clip:tiny"]
    for place, first in enumerate(others):
        for second in others[place + 1 :]:
            check_roles(RolesConfig(reward=first, monitor=second))


def test_a_server_without_a_named_model_may_be_any_that_it_serves():
    server = "openai:http://127.0.0.1:8000/v1"
    for other in (server, f"{server}/", f"{server}?way=rubric", f"{server}#any"):
        with pytest.raises(ConfigError, match="is both"):
            check_roles(RolesConfig(reward=server, monitor=other))
    check_roles(RolesConfig(reward=server, monitor="openai:http://127.0.0.1:9000/v1#any"))


def test_a_folder_is_the_same_however_its_path_is_written(tmp_path, monkeypatch):
    (tmp_path / "judge").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is both"):
        check_roles(RolesConfig(reward="vlm:judge", monitor=f"vlm:{tmp_path}/./judge/"))


def test_a_combination_that_contains_itself_is_refused(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text(f"members: {{a: pixels, b: {path}}}\noverall: {{method: weighted}}\n")
    with pytest.raises(ConfigError, match="cannot contain itself"):
        measures(str(path))


def judges(tmp_path, **cards):
    for name, card in cards.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "mmreward.json").write_text(card if isinstance(card, str) else json.dumps(card))
    return [f"vlm:{tmp_path / name}" for name in cards]


def test_what_reward_and_monitor_share_is_a_warning(tmp_path):
    first, second, third, silent, broken = judges(
        tmp_path,
        first={"family": "qwen2.5-vl", "taught_by": "oracle"},
        second={"family": "clip", "taught_by": ["oracle", "people"]},
        third={"family": "qwen2.5-vl", "taught_by": "people"},
        silent={"name": "says nothing"},
        broken="{",
    )
    (teacher,) = kinships(RolesConfig(reward=first, monitor=second))
    assert "share their teacher (oracle)" in teacher and first in teacher and second in teacher
    (family,) = kinships(RolesConfig(reward={"members": {"a": first, "b": "pixels"}}, monitor=third))
    assert "share the backbone qwen2.5-vl:" in family
    for monitor in (silent, broken, "target", f"openai:http://a/v1#{QWEN}"):
        assert kinships(RolesConfig(reward=first, monitor=monitor)) == []
    assert kinships(RolesConfig(reward="pixels", monitor=second, final=first)) == []  # the final measure may be related


def test_the_bundled_judge_and_the_bundled_clip_have_one_teacher():
    (warning,) = kinships(RolesConfig(reward="vlm:tiny", monitor="clip:tiny"))
    assert "share their teacher (oracle)" in warning and "monitor: target" in warning
    assert kinships(RolesConfig(reward="recommended", monitor="target", final="oracle")) == []


class Dimensions(Reward):
    name, dims, has_overall = "dimensions", ("quality", "preservation"), False

    def score(self, edits):
        return [Score(float("nan"), {"quality": 0.25, "preservation": 0.75}, has_overall=False) for _ in edits]


def test_a_reward_without_an_overall_needs_a_dimension(monkeypatch):
    from PIL import Image

    from mmreward.edit import Edit

    real = module.load_reward
    monkeypatch.setattr(module, "load_reward", lambda spec: Dimensions() if spec == "dimensions" else real(spec))
    config = {"reward": "dimensions", "monitor": "pixels"}
    with pytest.raises(ConfigError, match=r"roles.reward: dimensions measures .*roles.by: \{reward: DIMENSION\}"):
        load_roles(RolesConfig(**config))
    with pytest.raises(ConfigError, match="roles.by: .*'qality'.*Did you mean 'quality'"):
        load_roles(RolesConfig(**config, by={"reward": "qality"}))
    roles = load_roles(RolesConfig(**config, by={"reward": "quality"}))
    image = Image.new("RGB", (64, 64))
    assert roles.reward.score([Edit("make it red", image, image)])[0].overall == 0.25
    assert roles.monitor.name == "pixels" and roles.final is None
