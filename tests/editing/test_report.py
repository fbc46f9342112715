"""Reading a run's folder back."""

import json

import numpy as np
import pytest

from app.commands.train import find_recipe, read_recipe
from editing.recipe import Recipe
from editing.report import change_from_start, column, read_run
from editing.roles import check_roles, measures
from mmreward.config import ConfigError, read_config


def write(folder, *entries):
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def look(step, values):
    return {"kind": "monitor", "step": step, "overall": 0.5, "values": values}


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path}: no log.jsonl here"):
        read_run(tmp_path)
    write(tmp_path, {"kind": "train", "step": 1, "loss": 0.1}, {"step": 2})  # a judge's
    with pytest.raises(ConfigError, match="no evaluation by a monitor"):
        read_run(tmp_path)


def test_a_run_that_goes_on_is_read_as_far_as_it_is(tmp_path):
    write(tmp_path, look(0, [0.1, None]), {"kind": "train", "step": 1, "reward": None, "clip_fraction": 0.1})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # the line that is being written
    run = read_run(tmp_path)
    assert (len(run.looks), len(run.iterations), run.result, run.grids, run.alarms) == (1, 1, None, [], [])
    assert (run.verdict.kind, run.verdicts[0].kind) == ("unknown", "unknown")
    assert column(run.iterations, "clip_fraction") == ([1], [0.1])
    assert column(run.iterations, "diversity") == ([], [])


def test_rows_that_were_left_out_are_gathered(tmp_path):
    begun = {"kind": "start", "step": 0, "warnings": ["mind the gap"], "unreadable": {"a": "gone"}}
    trained = {"kind": "train", "step": 1, "reward": 0.1}
    write(tmp_path, begun, look(0, [0.1]), {**trained, "unreadable": {"b": "cut off"}}, {**trained, "step": 2})
    run = read_run(tmp_path)
    assert run.unreadable == {"a": "gone", "b": "cut off"} and run.warnings == ["mind the gap"]
    assert len(run.iterations) == 2


def test_change_from_the_start_is_paired(tmp_path):
    write(tmp_path, look(0, [0.1, 0.9, None, 0.2]), look(5, [0.2, 1.1, 0.5, None]), look(9, [0.1]))
    start, later, other_tasks = change_from_start(read_run(tmp_path))
    assert (start.change, start.standard_error) == (0, 0)
    assert later.change == pytest.approx(0.15)  # of 0.1 and 0.2; a mean of all would say 0.2
    assert later.standard_error == pytest.approx(np.std([0.1, 0.2], ddof=1) / np.sqrt(2))
    assert other_tasks is None


def test_the_demonstration_and_its_counterpart():
    recipes = []
    for changes in ([], ["roles.reward=recommended"]):
        values = read_recipe(find_recipe("hacked-tiny"), changes)
        assert values.pop("task") == "reward"
        recipes.append(read_config(Recipe, values))
        check_roles(recipes[-1].roles)
    weak, combined = recipes
    assert weak.model_copy(update={"roles": combined.roles}) == combined
    # The weak reward is inside the strong one: what is added is what makes it strong.
    assert measures(weak.roles.reward) < measures(combined.roles.reward)
    assert (weak.roles.monitor, weak.roles.final) == ("target", "oracle")
    assert (
        weak.loop.minutes and weak.evaluation.every * 4 < 60 * weak.loop.minutes / 10
    )  # four evaluations at 10 s each
