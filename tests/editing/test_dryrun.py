"""A dry run: its numbers are those of the run, large models are weighed without weights, and it starts nothing."""

import json
import math
import statistics
import time
from types import SimpleNamespace

import diffusers
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from editing import collect, dryrun_editor, dryrun_iteration
from editing.data import load_tasks
from editing.dryrun import dry_run
from editing.dryrun_reward import declare
from editing.dryrun_tokens import tokens
from editing.editors import load_editor
from editing.editors.kontext import KontextEditor
from editing.recipe import Recipe
from editing.roles import load_roles
from editing.trainer import Trainer
from mmreward.config import read_config
from mmreward.edit import Edit
from mmreward.reward import load_reward
from mmreward.shapes import World

SMALL = {
    "roles": {"reward": "pixels", "monitor": "target", "final": "oracle"},
    "rollout": {"groups": 3, "members": 4, "steps": 5, "window": 2, "batch": 4},
    "policy": {"weights": "lora", "rank": 2, "alpha": 4},
    "loop": {"steps": 2, "lr": 1e-4, "micro_batch": 4, "autocast": "no"},
    "algorithm": {"name": "grpo", "kl": 0.1},
}


def recipe(**changes) -> Recipe:
    return read_config(Recipe, {**SMALL, **changes})


@pytest.fixture(scope="module")
def folder(random_editor, tmp_path_factory):
    place = tmp_path_factory.mktemp("editor") / "small"
    random_editor.save(place)
    return str(place)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The rows of real recipes: a file of triplets, and another to watch."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for index in range(3):
        Image.new("RGB", (64, 64), (60 * index, 20, 90)).save(root / f"{index}.png")
        rows.append({"id": str(index), "instruction": "make it red", "source": f"{index}.png", "target": "0.png"})
    for name in ("train", "validation"):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_a_small_editor_is_loaded_and_timed(folder, tmp_path):
    found = dry_run(recipe(editor=folder), tmp_path / "run")
    assert found.problems == [] and not (tmp_path / "run").exists()
    counts, editor = found.counts, found.editor
    assert (counts.samples, counts.sampled, counts.trained, counts.compared) == (12, 60, 24, 24)
    assert editor.layers and 0 < editor.trainable < editor.parameters and editor.trainable_bytes == 4 * editor.trainable
    assert editor.size == (64, 64) and editor.flops > 0 and editor.saved > 0
    parts = {"encode", "sample", "decode", "reward", "update", "other"}  # as in the log
    assert set(found.seconds.parts) == parts and found.seconds.measured
    assert found.memory["optimiser"] == 8 * editor.trainable
    assert found.memory["policies"] == 4 * 3 * editor.trainable  # the start, the average, one while they are exchanged


@pytest.mark.slow
def test_an_iteration_takes_what_was_said(tmp_path, monkeypatch):
    """Within a factor of 1.5, in processor time: both are of this process, and a busy machine slows down both, though
    not always at the same time; so the best of three attempts counts.
    """
    monkeypatch.setattr(collect, "time", SimpleNamespace(monotonic=time.process_time))
    rollout = {"groups": 16, "members": 8, "steps": 5, "window": 1, "start": "shared", "place": "sliding"}
    small = recipe(rollout=rollout, loop={"steps": 9, "lr": 1e-5, "updates": 1})
    roles = load_roles(small.roles)
    trainer = Trainer(small, load_editor("tiny"), roles, load_tasks(small.data), tmp_path, Accelerator())
    trainer.step()

    def off() -> float:
        said = sum(dry_run(small, tmp_path).seconds.parts.values())
        took = []
        for _ in range(trainer.recipe.rollout.trained):
            took.append(sum(trainer.step()[1]["timing"].values()))
            trainer.state.iteration += 1
        return abs(math.log(said / statistics.mean(took)))

    assert any(off() < math.log(1.5) for _ in range(3))


def test_a_reward_that_is_elsewhere_leaves_the_time_of_the_editor(folder, tmp_path):
    judged = {"reward": "openai:http://127.0.0.1:9/v1#some/model", "monitor": "target"}
    found = dry_run(recipe(editor=folder, roles=judged), tmp_path)
    assert found.parts_seconds is None and set(found.seconds.parts) == {"sample", "decode", "update"}


def test_compiling_is_taken_into_account(monkeypatch):
    """Seconds of a quarter of an iteration are multiplied, and divided by what compiling makes of them."""
    timed = {"sample": 2.0, "decode": 1.0, "update": 3.0}
    monkeypatch.setattr(dryrun_iteration, "_timed", lambda small, reward, device, iteration: timed)
    monkeypatch.setattr(dryrun_iteration, "lacking", lambda: None)
    whole = recipe(rollout={"groups": 16, "members": 8}, loop={"steps": 2, "lr": 1e-4, "updates": 1})
    compiled = whole.model_copy(update={"loop": whole.loop.model_copy(update={"compile": True})})
    seconds = dryrun_iteration.seconds_of_parts
    cpu, given = torch.device("cpu"), load_reward("pixels")
    assert seconds(whole, given, cpu, 1.0) == {"sample": 8.0, "decode": 4.0, "update": 12.0}
    assert seconds(compiled, given, cpu, 1.0) == pytest.approx({"sample": 8 / 1.9, "decode": 4.0, "update": 12 / 1.3})
    assert seconds(whole, given, cpu, 1e4) is None  # one group would take minutes


def test_predictions_of_a_shared_start_are_counted():
    """Two groups of three; the window stands at the steps 0, 1 and 2 of four in turn."""
    config = {"groups": 2, "members": 3, "steps": 4, "window": 1, "place": "sliding", "start": "shared"}
    rollout = recipe(rollout=config).rollout
    assert [dryrun_iteration.predictions(rollout, place) for place in range(4)] == [24, 2 + 18, 4 + 12, 24]


def test_the_anchor_is_counted(folder, tmp_path):
    counts = dry_run(recipe(editor=folder, anchor={"weight": 1.0, "steps": 1, "every": 5}), tmp_path / "run").counts
    assert (counts.trained, counts.compared, counts.held) == (
        28,
        28,
        4,
    )  # of six samples in each of two updates the first and the sixth


def test_full_weights_train_all_parameters(folder, tmp_path):
    found = dry_run(recipe(editor=folder, policy={"weights": "full", "ema": 0}), tmp_path)
    assert found.editor.trainable == found.editor.parameters and found.editor.layers is None


def test_a_large_editor_is_weighed_without_weights(files, tmp_path):
    from app.commands.train import find_recipe, read_recipe

    values = read_recipe(
        find_recipe("kontext-8gpu"),
        [f"data.file={files}/train.jsonl", f"evaluation.monitor.file={files}/validation.jsonl"],
    )
    values.pop("task")
    found = dry_run(read_config(Recipe, values), tmp_path / "run")
    editor = found.editor
    assert found.problems == [] and editor.dtype == torch.bfloat16
    assert editor.parameters == pytest.approx(11.9e9, rel=0.01) and editor.bytes == 2 * editor.parameters
    assert editor.latent == (1024, 64) and editor.passes == 1
    assert 3e13 < editor.flops < 5e13 and 5e9 < editor.saved < 30e9
    assert 9e9 < found.host_memory < 11e9  # T5 and CLIP wait in main memory
    assert not found.seconds.measured and "reward" not in found.seconds.parts
    (judge,) = found.tokens.values()
    assert judge.answers == 12 * 3 and judge.alone is None


def test_one_and_two_blocks_tell_the_numbers_of_any():
    """Against a network with all of its blocks."""
    sizes = {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 6, 6), "joint_attention_dim": 8}
    config = {"_class_name": "FluxTransformer2DModel", "num_layers": 3, "num_single_layers": 4, **sizes}
    options, whole = {"dtype": torch.float32, "max_tokens": 5}, dryrun_editor.OUTLINES["FluxTransformer2DModel"]
    given = (recipe(), KontextEditor, (32, 64), options)
    found = dryrun_editor._weighed(given[0], given[1], config, *given[2:])
    make = diffusers.FluxTransformer2DModel.from_config
    assert found == dryrun_editor._weigh(given[0], given[1], make, config, whole, *given[2:])
    assert found["layers"] == 3 * 8 + 4 * 3 and found["latent"] == (8, 64) and found["blocks"] == 7


@pytest.mark.parametrize("way", ["expected", "pairwise"])
def test_judge_tokens_are_those_that_the_judge_reads(way):
    """Against the trees of tokens that its backend makes."""
    reward = declare(f"vlm:tiny?way={way}", parts := [])
    task = World("train", 0, 64, None, "exclude").task(3)
    source = Image.fromarray(task.source_image)
    edits = [Edit(task.instruction, source, Image.new("RGB", (64, 64), (index, 0, 0))) for index in range(3)]
    backend, seen = reward.backend, []
    found = tokens(reward, {"judge": reward}, {"judge": parts[0].processor}, edits)["judge"]
    assert reward.backend is backend
    read = backend.shared._read
    backend.shared._read = lambda prompts: seen.extend(read(prompts)) or read(prompts)
    reward.score(edits)
    ends = [end for tree in seen for end in tree.ends()]
    assert found.answers == len(ends) == {"expected": 9, "pairwise": 6}[way]
    assert found.shared == sum(tree.size for tree in seen)
    assert found.alone == sum(end.count for end in ends)


def test_stand_ins_know_what_the_real_ones_would():
    """A judge behind a server, and one of the hub: dimensions, comparisons and options without loading anything."""
    server = "openai:http://127.0.0.1:9/v1#some/model"
    assert declare(server, []).dims == load_reward("vlm:tiny").dims
    assert hasattr(declare(f"{server}?way=pairwise", []), "compare") and not hasattr(declare(server, []), "compare")
    with pytest.raises(ValueError, match="unknown option of 'openai' 'concurency'. Did you mean 'concurrency'"):
        declare(f"{server}?concurency=3", [])
    with pytest.raises(ValueError, match="unknown option of 'vlm' 'pixls'. Did you mean 'pixels'"):
        declare("vlm:Qwen/Qwen2.5-VL-7B-Instruct?pixls=3", [])
    mapping = {
        "members": {"judge": server, "pixels": "pixels"},
        "dims": {"instruction_following": {"pixels": 1.0}},
        "overall": {"method": "minimum", "of": ["instruction_following"]},
    }
    with pytest.raises(ValueError, match="'pixels' does not measure it"):
        declare(mapping, [])


def test_problems_are_collected(files, tmp_path):
    """One line for each, with its key, and the rest is still looked at."""
    found = dry_run(
        recipe(
            editor=str(tmp_path / "nowhere"),
            data={"file": files / "lost.jsonl"},
            roles={"reward": "pixels", "monitor": "pixels"},
            algorithm={"name": "pref_grpo"},
        ),
        tmp_path,
    )
    said = "\n".join(found.problems)
    assert "pixels is both reward and monitor" in said and "cannot compare two edits" in said
    assert "lost.jsonl" in said and "nowhere" in said


def test_a_reward_without_a_score_for_these_tasks_is_a_problem(files, folder, tmp_path):
    """The oracle on pictures that are not of its world."""
    data = {"file": files / "train.jsonl"}
    roles = {"reward": "oracle", "monitor": "pixels"}
    found = dry_run(recipe(editor=folder, data=data, roles=roles, evaluation={"monitor": data}), tmp_path)
    assert [problem.partition(": no score")[0] for problem in found.problems] == ["roles.reward"]
    assert found.rows == {"data": 3, "monitor": 3}
