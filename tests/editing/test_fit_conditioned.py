"""Fine-tuning on scored triplets: where scores come from, what is drawn with which weight, and short runs."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file

from editing.editors import editor_options, load_editor
from editing.editors.conditioned import Conditioned, conditioned
from editing.editors.diffusion import from_output, unit_coordinates
from editing.editors.flow import from_velocity
from editing.editors.instruct_pix2pix import InstructPix2PixEditor
from editing.fit import conditioned as recipe_of
from editing.fit.conditioned_data import TripletConfig, scored_triplets
from editing.fit.conditioned_family import family_of
from editing.fit.conditioned_training import ConditionedTraining, Draw, Dropout, loss, worst_scores
from mmreward.training import ConfigError, load_checkpoint, read_config, read_log

NAMES = ("instruction_following", "preservation", "quality")
LOOP = {"steps": 2, "lr": 1e-2, "warmup": 0, "log_every": 1, "ema": 0.5, "autocast": "no"}


@pytest.fixture(scope="module")
def unet_editor(ip2p_pipeline):
    """A random InstructPix2Pix with two-way guidance."""
    return InstructPix2PixEditor(ip2p_pipeline("sd"), "random", guidance=3.0, max_area=64 * 64, steps=4)


@pytest.fixture(params=["random_editor", "unet_editor"])
def start(request):
    """One of each family."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """As `mmreward filter --all` writes it: five scored rows, one of another shape, one failed without its image."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(6):
        size = (64, 64, 3) if number else (64, 128, 3)
        for name in ("source", "target"):
            Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / f"{name}-{number}.png")
        scores = dict(zip(NAMES, (0.1 * number, 0.5, None if number == 2 else 0.9), strict=True))
        row = {"id": str(number), "instruction": "make the circle blue", "overall": 0.1 * number, **scores}
        row |= {"source": f"source-{number}.png", "target": f"target-{number}.png", "status": "ok"}
        rows.append(row | {"rationale": f"the circle {number}" if number in (3, 4) else None})
    rows[5] |= {"overall": None, **dict.fromkeys(NAMES), "status": "io_error", "target": "gone.png"}
    (folder / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "scored.jsonl"


def _data(editor, table, folder):
    family = family_of(editor, 0.0, 1.0)
    return family, scored_triplets(editor, family, TripletConfig(file=table), folder / "triplets.safetensors")


def test_table_is_read_with_scores_and_feedback(start, table, tmp_path):
    _, data = _data(start, table, tmp_path)
    wide, square = data.buckets
    assert len(wide.overall) == 1 and wide.feedback is None and wide.condition.size != square.condition.size
    assert torch.allclose(square.overall, torch.tensor([0.1, 0.2, 0.3, 0.4])) and len(data.overall) == 5
    assert square.scores[1].isnan().tolist() == [False, False, True]
    assert square.feedback_row.tolist() == [-1, -1, 0, 1]
    source = Image.open(table.parent / "source-4.png")
    alone = start.encode([source], ["the circle 4"])[0].tensors["text"].bfloat16()
    assert torch.equal(square.feedback[1:], alone)
    # Stored for one pass of the network: guidance by leaving out is not part of it.
    assert not [name for name in square.condition.tensors if name.startswith("no_")]
    assert bool(data.empty) == isinstance(start, InstructPix2PixEditor)
    assert worst_scores(data, NAMES, 0.4) == pytest.approx(dict(zip(NAMES, (0.05, 0.5, 0.9), strict=True)), abs=1e-6)


def test_targets_are_what_decode_takes(start, table, tmp_path):
    _, data = _data(start, table, tmp_path)
    square, vae = data.buckets[1], start.pipeline.vae
    image = np.asarray(Image.open(table.parent / "target-1.png"))
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        encoded = vae.encode(pixels)
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        wanted = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        found = start.decode(square.target[:1].float(), square.condition.select([0]))
    assert torch.allclose(found, wanted, atol=0.02)  # bfloat16


def test_weights_of_the_methods():
    overall = torch.tensor([0.5, torch.nan, 0.9, 0.5, 0.1])
    assert recipe_of.ByScores(name="conditioned").weights(overall).tolist() == [1, 0, 1, 1, 1]
    assert recipe_of.TopScored(name="top_scored", share=0.5).weights(overall).tolist() == [1, 0, 1, 0, 0]
    weights = recipe_of.Weighted(name="weighted", temperature=0.2).weights(overall)
    assert weights[1] == 0 and float(weights[2] / weights[0]) == pytest.approx(math.exp(2), rel=1e-4)
    with pytest.raises(ValidationError):
        recipe_of.TopScored(name="top_scored", share=0)


def test_what_is_learned_is_what_the_network_says(start):
    family = family_of(start, 0.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    t = family.levels(5, generator)
    x, out = torch.randn(2, 5, 4, 3, generator=generator)
    if isinstance(start, InstructPix2PixEditor):
        y, _ = unit_coordinates(x, t, start.levels)
        for kind in ("epsilon", "v_prediction"):
            start.prediction = kind
            found = from_output(x, y, out, t, start.levels, kind)
            assert torch.allclose(family.learned(found.x0, found.eps, t), out, atol=1e-3)
        start.prediction = "epsilon"
    else:
        found = from_velocity(x, out, t)
        assert torch.allclose(family.learned(found.x0, found.eps, t), out, atol=1e-5)


def test_draws_leave_out_what_they_should(unet_editor, table, tmp_path):
    family, data = _data(unet_editor, table, tmp_path)
    weights = torch.tensor([0.0, 1.0, 3.0, 2.0, 2.0])  # the wide row is never drawn
    draw = Draw(data, weights, family, Dropout(scores=0.2, feedback=0.5, empty=0.1), 4000, seed=3)
    batch, again = draw(1), draw(1)
    assert torch.equal(batch.x, again.x) and not torch.equal(batch.x, draw(2).x)
    assert float(batch.weights.mean()) == pytest.approx(1, abs=0.03)
    assert sorted(set(batch.weights.tolist())) == [0.5, 1.0, 1.5]
    assert float(batch.scores.isnan().all(1).float().mean()) == pytest.approx(0.2, abs=0.03)
    said = batch.feedback.abs().sum((1, 2)) > 0
    assert float(said.float().mean()) == pytest.approx(0.5 * 0.5, abs=0.03)  # half of the rows have one
    no_source, empty = batch.has_source == 0, data.empty["text"].float()
    no_text = (batch.condition.tensors["text"] == empty).all(dim=(1, 2))
    assert [float(rows.float().mean()) for rows in (no_text, no_source, no_text & no_source)] == pytest.approx(
        [0.2, 0.2, 0.1], abs=0.03
    )
    with pytest.raises(ConfigError, match="no triplet has a score"):
        Draw(data, torch.zeros(5), family, Dropout(), 4, seed=0)


def test_loss_is_the_weighted_mean_of_single_losses(start, table, tmp_path):
    family, data = _data(start, table, tmp_path)
    torch.manual_seed(0)
    editor = conditioned(start, scores=NAMES)
    module = ConditionedTraining(editor, family_of(editor, 0.0, 1.0))
    batch = Draw(data, torch.tensor([0.0, 1.0, 3.0, 2.0, 2.0]), family, Dropout(), 3, seed=0)(0)
    with torch.no_grad():
        errors = (module(batch) - batch.wanted).square().mean(dim=(1, 2))
        # The network is the start editor's still, and sees no guidance.
        plain = ConditionedTraining(start, family)(batch)
    assert torch.allclose(module(batch), plain, atol=1e-5)
    total = loss(module, batch).total
    assert total.item() == pytest.approx(float((batch.weights * errors).mean()), rel=1e-4)
    total.backward()
    grads = {name: parameter.grad for name, parameter in module.conditioner.named_parameters()}
    heard = [grads[name] for name in ("to_source.weight", "to_token.weight", "to_pooled.weight") if name in grads]
    assert len(heard) >= 2 and all(grad.abs().sum() > 0 for grad in heard)
    start.module.zero_grad()


@pytest.fixture(scope="module")
def runs(random_editor, tmp_path_factory):
    """The three methods from the same triplets of the shapes world, two steps each."""
    folder = tmp_path_factory.mktemp("runs")
    random_editor.save(folder / "start")
    data = {"reward": "oracle", "triplets": 8, "flawed": 0.5, "seed": 1}
    recipe = {"editor": str(folder / "start"), "data": data, "batch": 4, "checked": 2, "loop": LOOP}
    recipe |= {"cache": str(folder / "triplets.safetensors"), "checked_minutes": 0}
    for method in ({"name": "conditioned"}, {"name": "top_scored", "share": 0.5}, {"name": "weighted"}):
        recipe_of.run({**recipe, "method": method}, folder / method["name"], resume=False)
    return folder, recipe


def test_run_of_each_method_gives_an_editor(runs):
    folder, _ = runs
    for method in ("conditioned", "top_scored", "weighted"):
        editor = load_editor(str(folder / method / "model"))
        about = json.loads((folder / method / "model" / "mmreward.json").read_text())
        assert isinstance(editor, Conditioned) == (method == "conditioned") and about["domain"] == "shapes"
        assert "8 triplets" in about["data"] and "scored by oracle" in about["data"]
    editor = load_editor(str(folder / "conditioned" / "model"))
    assert editor.conditioner.to_token.weight.abs().sum() > 0 and editor.asked == dict.fromkeys(NAMES, 1.0)
    assert 0 < sum(editor.low.values()) < 3 and editor.score_guidance == 1.5  # the worst triplet's


def test_conditioned_editor_can_be_trained_on(runs, tmp_path):
    folder, recipe = runs
    start = str(folder / "conditioned" / "model")
    with pytest.raises(ConfigError, match="is conditioned on instruction_following, .* already"):
        recipe_of.run({**recipe, "editor": start, "method": {"name": "weighted"}}, tmp_path, resume=False)
    changes = {"editor": start, "method": {"name": "conditioned", "guidance": 2.0}}
    changes["policy"] = {"weights": "lora", "rank": 2, "alpha": 4}
    recipe_of.run({**recipe, **changes}, tmp_path, resume=False)
    assert load_editor(str(tmp_path / "model")).score_guidance == 2.0


def test_encoded_triplets_of_other_settings_are_refused(runs, tmp_path):
    folder, recipe = runs
    other = {**recipe, "data": {**recipe["data"], "seed": 2}, "method": {"name": "weighted"}}
    with pytest.raises(ConfigError, match="triplets.safetensors was encoded with data .*remove the file"):
        recipe_of.run(other, tmp_path, resume=False)


def test_unknown_scores_are_refused(random_editor, runs, table, tmp_path):
    _, recipe = runs
    wrong = {**recipe["data"], "scores": ["beauty"]}
    with pytest.raises(ConfigError, match="oracle does not give 'beauty'; it gives: instruction_following"):
        recipe_of.run({**recipe, "data": wrong, "method": {"name": "conditioned"}}, tmp_path, resume=False)
    family = family_of(random_editor, 0.0, 1.0)
    with pytest.raises(ConfigError, match="no column 'beauty' .*mmreward filter TRIPLETS --all"):
        scored_triplets(random_editor, family, TripletConfig(file=table, scores=("beauty",)), tmp_path / "t")
    with pytest.raises(ConfigError, match="unknown key 'method.weighted.share'"):
        recipe_of.run({**recipe, "method": {"name": "weighted", "share": 1}}, tmp_path, resume=False)


@pytest.mark.parametrize("name", ["conditioned-tiny", "top-scored-tiny", "weighted-tiny", "conditioned-ip2p"])
def test_bundled_recipes_are_complete(name):
    from app.commands.train import TASKS, find_recipe, read_recipe

    values = read_recipe(find_recipe(name))
    assert TASKS[values["task"]] == "editing.fit.conditioned:run"
    settings = read_config(recipe_of.ConditionedRecipe, values)
    assert settings.data.scores == NAMES and (settings.loop.minutes or settings.loop.steps)
    if "?" in settings.editor:
        assert editor_options(settings.editor.partition("?")[2], InstructPix2PixEditor)["guidance"] == 7.5


def test_a_scored_row_without_its_image_is_refused(random_editor, table, tmp_path):
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    rows[1]["target"] = "gone.png"
    broken = table.with_name("broken.jsonl")
    broken.write_text("".join(json.dumps(row) + "\n" for row in rows))
    family = family_of(random_editor, 0.0, 1.0)
    with pytest.raises(ConfigError, match=r"broken.jsonl: row 1: .*gone.png"):
        scored_triplets(random_editor, family, TripletConfig(file=broken), tmp_path / "t")
    rows[1] |= {"target": "target-1.png", "quality": 7}
    broken.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match="row 1: quality should be a number from 0 to 1 or empty, got 7"):
        scored_triplets(random_editor, family, TripletConfig(file=broken), tmp_path / "t")


@pytest.mark.parametrize("policy", [{"weights": "full"}, {"weights": "lora", "rank": 2, "alpha": 4}])
def test_what_is_trained_of_a_bfloat16_editor_is_float32(runs, policy, tmp_path):
    """Steps of 1e-6 are lost in bfloat16, whose neighbours of 1 lie 4e-3 apart."""
    _, recipe = runs
    changes = {"editor": recipe["editor"] + "?dtype=bfloat16", "method": {"name": "weighted"}, "policy": policy}
    loop = {**LOOP, "lr": 1e-6, "autocast": "bf16", "gradient_checkpointing": True}
    recipe_of.run({**recipe, **changes, "loop": loop}, tmp_path, resume=False)
    found = load_checkpoint(tmp_path).tensors
    average = found["ema"]
    assert average and {found["weights"][name].dtype for name in average} == {torch.float32}
    moved = [float((found["weights"][name] - value).abs().max()) for name, value in average.items()]
    assert max(moved) < 1e-5 and sum(step > 0 for step in moved) > len(moved) / 2
    assert (tmp_path / "lora").exists() == (policy["weights"] == "lora")


def test_older_and_foreign_settings_are_refused_with_what_to_write(runs):
    _, recipe = runs
    recipe = {**recipe, "method": {"name": "weighted"}}
    with pytest.raises(ConfigError, match=r"`lora: 32` is now `policy: \{weights: lora, rank: 32, alpha: 64\}`"):
        recipe_of.run({**recipe, "lora": 32}, "unused", resume=False)
    for change, said in [
        ({"policy": {"ema": 0.5}}, "here the average is loop.ema"),
        ({"policy": {"shard": True}, "loop": {**LOOP, "optimizer": "muon"}}, "Muon needs whole matrices"),
        ({"policy": {"export": "lora"}, "method": {"name": "conditioned"}}, "leaves out what method conditioned adds"),
        ({"policy": {"shard": True}}, "one process has nobody to share the network with"),
    ]:
        with pytest.raises(ConfigError, match=said):
            recipe_of.run({**recipe, **change}, "unused", resume=False)


def test_shares_of_a_batch_are_the_batch(start, table, tmp_path):
    family, data = _data(start, table, tmp_path)
    weights = torch.tensor([0.0, 1.0, 3.0, 2.0, 2.0])
    dropout = Dropout(scores=0.2, feedback=0.5, empty=0.1)
    whole, first, second = (
        Draw(data, weights, family, dropout, 6, 3, share)(1) for share in (None, range(2), range(2, 6))
    )
    for name in ("x", "t", "wanted", "weights", "scores", "has_source"):
        joined = torch.cat([getattr(first, name), getattr(second, name)])
        assert torch.equal(joined.nan_to_num(-1), getattr(whole, name).nan_to_num(-1)), name
    for name, tensor in whole.condition.tensors.items():
        assert torch.equal(torch.cat([first.condition.tensors[name], second.condition.tensors[name]]), tensor)


@pytest.fixture(scope="module")
def shared(random_editor, tmp_path_factory):
    """The folders that `two_conditioned.py` leaves."""
    folder = tmp_path_factory.mktemp("shared")
    random_editor.save(folder / "editor")
    script, root = Path(__file__).with_name("two_conditioned.py"), Path(recipe_of.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder / "editor"), str(folder)]
    process = subprocess.Popen(
        command, env=environment, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        printed, _ = process.communicate(timeout=500)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, printed
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["two", "sharded"])
def test_two_processes_learn_what_one_learns(shared, name):
    """With the network whole in both, and with its parts dealt out and its activations computed twice."""
    one, two = (load_checkpoint(shared / run) for run in ("one", name))
    assert one.step == two.step == 3
    moments = one.tensors["optimizer_adamw"]
    assert all(torch.allclose(value, two.tensors["optimizer_adamw"][key], atol=1e-6) for key, value in moments.items())
    logs = [read_log(shared / run / "log.jsonl") for run in ("one", name)]
    for ours, theirs in zip(*logs, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
    learned = [load_file(shared / run / "lora" / "pytorch_lora_weights.safetensors") for run in ("one", name)]
    moved = LOOP["lr"] * one.step  # at most; Adam magnifies what rounding makes of a gradient of nearly nothing
    assert all(torch.allclose(value, learned[1][key], atol=0.01 * moved) for key, value in learned[0].items())
    assert isinstance(load_editor(str(shared / name / "model")), Conditioned)


@pytest.mark.timeout(600)
def test_processes_stop_together_and_go_on_exactly(shared):
    assert (shared / "stopped-0").exists() and (shared / "stopped-1").exists()
    whole, stopped = (load_checkpoint(shared / run) for run in ("sharded", "stopped"))
    for table, tensors in whole.tensors.items():
        assert all(torch.equal(value, stopped.tensors[table][name]) for name, value in tensors.items()), table
