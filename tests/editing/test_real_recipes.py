"""The recipes for real models are complete: each is read, looked at by a dry run, and run for two iterations on a small
random checkpoint of its family, with nothing changed but sizes, files and the reward.
"""

import json
import re
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image

from app.cli import main
from app.commands.train import TASKS, find_recipe, read_recipe
from editing.editors import ADAPTERS, editor_options
from editing.recipe import Recipe
from editing.roles import check_roles
from editing.trainer import load_algorithm
from mmreward.combine import _CombinationConfig
from mmreward.config import read_config
from mmreward.reward import LOADERS

FAMILIES = {
    "ip2p-24gb": "StableDiffusionInstructPix2PixPipeline",
    "kontext-8gpu": "FluxKontextPipeline",
    "kontext-colocated": "FluxKontextPipeline",
    "qwen-8gpu": "QwenImageEditPlusPipeline",
}


@pytest.fixture(params=FAMILIES)
def named(request):
    values = read_recipe(find_recipe(request.param))
    assert TASKS[values.pop("task")] == "editing.trainer:run"
    return request.param, read_config(Recipe, values)


def test_recipe_is_complete(named):
    name, recipe = named
    check_roles(recipe.roles)
    assert load_algorithm(recipe).name == "grpo"
    assert recipe.data.file and recipe.evaluation.monitor.file and recipe.data.file != recipe.evaluation.monitor.file
    assert recipe.loop.steps and recipe.policy.weights == "lora"
    members = recipe.roles.reward["members"]
    for spec in (recipe.roles.monitor, members["judge"], members["pixels"]):
        assert spec.partition(":")[0] in LOADERS


def test_editor_options_are_known(named):
    name, recipe = named
    module, _, kind = ADAPTERS[FAMILIES[name]].partition(":")
    options = editor_options(recipe.editor.partition("?")[2], getattr(import_module(module), kind))
    assert options["max_area"] == 512 * 512 and options["park"] == "cpu"
    assert options.get("dtype", torch.float32) == (torch.float32 if name == "ip2p-24gb" else torch.bfloat16)


def test_clip_range_follows_the_size_of_the_latents(named):
    """The deviation of a mean over D numbers falls like 1 / sqrt(D); the tiny editor's 1e-3 is for 1,280."""
    name, recipe = named
    numbers = 64 * 64 * 4 if name == "ip2p-24gb" else 32 * 32 * 64
    assert recipe.algorithm["clip"] == pytest.approx(1e-3 * (1280 / numbers) ** 0.5, rel=0.4)


def test_groups_divide_among_the_processes(named):
    name, recipe = named
    processes = {"ip2p-24gb": 1, "kontext-8gpu": 6, "kontext-colocated": 8, "qwen-8gpu": 6}[name]
    assert recipe.rollout.groups % processes == 0


def test_reward_is_a_combination_that_reads(named):
    _, recipe = named
    assert read_config(_CombinationConfig, recipe.roles.reward).members.keys() == {"judge", "pixels"}


def test_sampling_and_training_compute_in_batches_of_one_size(named):
    _, recipe = named
    assert recipe.rollout.batch == recipe.loop.micro_batch


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Triplets to train on and to watch."""
    root = tmp_path_factory.mktemp("data")
    random, rows = np.random.default_rng(0), []
    for index in range(4):
        for name in ("source", "target"):
            pixels = random.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"{name}-{index}.png")
        rows.append({"instruction": "make it red", "source": f"source-{index}.png", "target": f"target-{index}.png"})
    for name in ("train", "validation"):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"data.file={root / 'train.jsonl'}", f"evaluation.monitor.file={root / 'validation.jsonl'}"]


@pytest.fixture(scope="module")
def small(random_editor, qwen_folders, ip2p_folders, tmp_path_factory):
    """Recipe -> the folder of a small checkpoint of its family."""
    kontext = tmp_path_factory.mktemp("kontext") / "small"
    random_editor.save(kontext)
    folders = {"FluxKontextPipeline": kontext, "QwenImageEditPlusPipeline": qwen_folders / "plus"}
    folders["StableDiffusionInstructPix2PixPipeline"] = ip2p_folders / "sd"
    return {name: folders[family] for name, family in FAMILIES.items()}


def call(name, changes, *options):
    with pytest.raises(SystemExit) as stopped:
        main(["train", name, *options, *(word for change in changes for word in ("--set", change))])
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_dry_run_weighs_it(name, files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(name, files, "--dry-run") == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80 and not list(tmp_path.iterdir())
    for part in (FAMILIES[name], "LoRA of rank", "tokens: unknown", "estimate", "an iteration for one GPU"):
        assert part in " ".join(said.split())


@pytest.mark.parametrize("name", FAMILIES)
def test_it_runs_on_a_small_checkpoint_of_its_family(name, files, small, tmp_path, capsys):
    editor = read_recipe(find_recipe(name))["editor"]
    options = re.sub(r"max_area=\d+", "max_area=4096", editor.partition("?")[2]).replace("dtype=bfloat16&", "")
    changes = [
        *files,
        f"editor={small[name]}?{options}",
        "roles.reward=pixels",
        "roles.monitor=target",
        "rollout.groups=2",
        "rollout.members=2",
        "rollout.steps=3",
        "rollout.window=1",
        "loop.steps=2",
        "evaluation.every=2",
        "evaluation.monitor_tasks=2",
        "policy.rank=2",
        "loop.autocast='no'",
    ]
    assert call(name, changes, "--out", str(tmp_path / "run")) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    trained = [entry for entry in log if entry["kind"] == "train"]
    assert [entry["step"] for entry in trained] == [1, 2] and all(entry["statuses"] == {"ok": 4} for entry in trained)
    assert all(entry["grad_norm"] is not None for entry in trained)
    assert (tmp_path / "run" / "model" / "model_index.json").is_file()
