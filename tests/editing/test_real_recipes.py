"""The recipes for real models are complete: each is read, its roles are checked, its editor's options are known."""

from importlib import import_module

import pytest
import torch

from app.commands.train import TASKS, find_recipe, read_recipe
from editing.editors import ADAPTERS, _options
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
    for spec in (recipe.roles.monitor, members["judge"], members["pixels"]["reward"]):
        assert spec.partition(":")[0] in LOADERS


def test_editor_options_are_known(named):
    name, recipe = named
    module, _, kind = ADAPTERS[FAMILIES[name]].partition(":")
    options = _options(recipe.editor.partition("?")[2], getattr(import_module(module), kind))
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
