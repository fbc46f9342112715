"""Training the bundled CLIP in miniature: deterministic batches, a loss that falls, a folder that loads."""

import json

import numpy as np
import pytest

from mmreward import load_reward
from mmreward.shapes import World
from mmreward.shapes.world import split_of
from mmreward.training import ConfigError

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from mmreward.fit.clip import run  # noqa: E402
from mmreward.fit.clip_data import build_tokenizer, make_batch, near_scenes  # noqa: E402

RECIPE = {
    "model": {"vision_width": 64, "vision_layers": 1, "text_width": 64, "text_layers": 1, "embed": 32},
    "data": {"groups": 2, "members": 10},
    "loop": {"steps": 6, "lr": 0.003, "warmup": 0, "log_every": 2, "ema": 0.9, "optimizer": "muon"},
    "measure": {"fit_tasks": 4, "test_tasks": 4},
}


def _tokenize(tokenizer):
    return lambda texts: tokenizer(texts, max_length=56, padding="max_length", return_tensors="pt")["input_ids"]


def test_a_batch_is_a_function_of_its_number():
    tokenize, world = _tokenize(build_tokenizer(samples=100)), World("train")
    a, b, other = (make_batch(world, tokenize, step, 2, 12, 0.5) for step in (3, 3, 4))
    assert torch.equal(a.images, b.images) and torch.equal(a.captions, b.captions)
    assert not torch.equal(a.images, other.images)
    assert a.images.shape == (24, 3, 64, 64) and a.instructions.shape == (2, 56)
    follows = a.follows.view(2, 12)
    assert not follows[:, 0].any() and follows[:, 1].all()  # the source does not follow, the true target does
    assert len(a.scenes.unique()) > 12


def test_near_scenes_stay_in_their_split():
    world = World("validation")
    scenes = near_scenes(world.task(0), 20, "validation", np.random.default_rng(0))
    assert {split_of(scene) for scene in scenes} == {"validation"}


def test_the_tokenizer_knows_every_word_of_the_world():
    tokenizer = build_tokenizer()
    for task in World("test", kept_out="include").tasks(200):
        for text in (task.instruction, task.source_caption, task.target_caption):
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"], text


def test_training_ends_in_a_folder_that_loads(tmp_path):
    run(RECIPE, tmp_path, False)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"]
    folder = tmp_path / "model"
    about = json.loads((folder / "mmreward.json").read_text())
    assert about["domain"] == "shapes" and set(about["maps"]) >= {"alignment", "direction", "kept"}
    assert "Spearman" not in about["numbers"] and "pairs right" in about["numbers"]["with captions"]
    assert "tiny-clip" in (folder / "README.md").read_text()
    stored = __import__("safetensors.torch").torch.load_file(folder / "open_clip_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    reward = load_reward(f"clip:{folder}")
    assert {p.dtype for p in reward.model.module.parameters()} == {torch.float32}
    run(RECIPE, tmp_path, True)  # finished: exports again, trains no further


def test_training_can_start_from_a_bundled_model(tmp_path):
    from mmreward.fit.clip import ModelConfig, Trainee, _start_from, model_config

    trainee = Trainee(model_config(ModelConfig(), 88))
    _start_from("tiny", trainee.clip)
    bundled = load_reward("clip:tiny").model.module.state_dict()
    assert torch.equal(trainee.clip.state_dict()["visual.proj"], bundled["visual.proj"])
    with pytest.raises(ValueError, match="sizes of this recipe"):
        run({**RECIPE, "start": "tiny"}, tmp_path, False)


def test_unknown_keys_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.wdth"):
        run({**RECIPE, "model": {"wdth": 3}}, tmp_path, False)
