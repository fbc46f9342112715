"""A dry run: its numbers are those of the run, large models are weighed without weights, and it starts nothing."""

import json

import diffusers
import pytest
import torch
from PIL import Image

from editing import dryrun_editor
from editing.dryrun import dry_run
from editing.dryrun_reward import declare
from editing.dryrun_tokens import tokens
from editing.editors.kontext import KontextEditor
from editing.recipe import Recipe
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
    assert set(found.seconds.parts) == {"sample", "decode", "train", "reward"} and found.seconds.measured
    assert found.memory["optimiser"] == 8 * editor.trainable
    assert found.memory["policies"] == 4 * 3 * editor.trainable  # the start, the average, one while they are exchanged


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
