"""The InstructPix2Pix adapter against the diffusers pipelines it stands for, on small random checkpoints."""

import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from editing.editors import load_editor
from editing.editors.editor import seeded_noise
from editing.editors.instruct_pix2pix import InstructPix2PixEditor
from editing.editors.lora import save_lora
from editing.rollout import replay, rollout
from editing.transition import CPS, DDIM, ODE, transition

INSTRUCTIONS = ["make the circle blue", "remove the red square"]
GUIDANCE = {"guidance": 4.0, "image_guidance": 1.5}
KINDS = ("sd", "sd-v", "xl", "xl-v")


@pytest.fixture(scope="module")
def folders(ip2p_folders):
    return ip2p_folders


@pytest.fixture(scope="module", params=KINDS)
def editor(request, folders):
    return load_editor(str(folders / request.param), max_area=64 * 64, steps=4, **GUIDANCE)


@pytest.fixture(scope="module")
def simple(folders):
    return load_editor(f"{folders / 'sd'}?max_area=4096&steps=4&guidance=4", image_guidance=1.5)


def _source(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def _start(editor, count=2, size=(64, 64)):
    condition = editor.collate(editor.encode([_source(row, size) for row in range(count)], INSTRUCTIONS[:count]))
    x = torch.stack([editor.prior("group", member, condition.latent_shape) for member in range(count)])
    return condition, x


def _unit(editor, x, condition):
    """The starting noise as the pipeline has it: a grid of unit deviation."""
    first = editor.schedule(4, condition.latent_shape)[0]
    grid = (x / ((1 - first) ** 2 + first**2).sqrt()).mT
    return grid.unflatten(2, tuple(side // 8 for side in condition.size))


def _from_pipeline(editor, latents, output, count=2, guidance=(4.0, 1.5), shape=(64, 64)):
    size = {"height": shape[0], "width": shape[1]} if editor.is_xl else {}
    return editor.pipeline(
        prompt=INSTRUCTIONS[:count],
        image=[_source(row, shape) for row in range(count)],
        latents=latents,
        num_inference_steps=4,
        guidance_scale=guidance[0],
        image_guidance_scale=guidance[1],
        output_type=output,
        **size,
    ).images


@pytest.mark.parametrize("size", [(64, 64), (48, 88)])
def test_ode_rule_gives_the_pipelines_own_output(editor, size):
    condition, x = _start(editor, size=size)
    assert isinstance(editor, InstructPix2PixEditor) and condition.size == size
    assert condition.latent_shape == (size[0] * size[1] // 64, 4)
    final = rollout(editor, condition, x, editor.schedule(4, condition.latent_shape), ODE()).final
    expected = _from_pipeline(editor, _unit(editor, x, condition), "latent", shape=size).flatten(2).mT
    assert torch.allclose(final, expected, rtol=1e-4, atol=1e-4)
    images = _from_pipeline(editor, _unit(editor, x, condition), "np", shape=size)
    assert np.allclose(editor.decode(final, condition).permute(0, 2, 3, 1).detach().numpy(), images, atol=1e-4)


def test_without_guidance_there_is_one_pass(folders):
    editor = load_editor(str(folders / "sd"), max_area=64 * 64, guidance=1.0, image_guidance=1.0)
    condition, x = _start(editor)
    assert "no_text" not in condition.tensors
    final = rollout(editor, condition, x, editor.schedule(4, condition.latent_shape), ODE()).final
    expected = _from_pipeline(editor, _unit(editor, x, condition), "latent", guidance=(1.0, 1.0)).flatten(2).mT
    assert torch.allclose(final, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_what_is_predicted_fits_the_ddim_rule(editor, eta):
    condition, x = _start(editor)
    sigmas = editor.schedule(4, condition.latent_shape)
    step, following = 1, 2
    x0, eps = editor.predict(x, sigmas[step], condition)
    scale = ((1 - sigmas) ** 2 + sigmas**2).sqrt()
    y = x / scale[step]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    moved = transition(
        x, x0, eps, sigmas[step], sigmas[following], DDIM(eta), generator=torch.Generator().manual_seed(5)
    )
    scheduler = editor.pipeline.scheduler
    scheduler.set_timesteps(4)
    out = editor._guided(y.mT.unflatten(2, (8, 8)), torch.full((2,), 749), condition).detach()
    grid = (part.mT.unflatten(2, (8, 8)) for part in (y, noise))
    sample, variance_noise = grid
    expected = scheduler.step(out, scheduler.timesteps[step], sample, eta=eta, variance_noise=variance_noise)
    assert scheduler.timesteps[step] == 749
    assert torch.allclose(moved.prev / scale[following], expected.prev_sample.flatten(2).mT, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.93, 0.99, 1.0])
def test_prediction_is_on_the_straight_line_at_every_level(editor, level):
    condition, x = _start(editor)
    x0, eps = editor.predict(x, level, condition)
    assert x0.isfinite().all() and torch.allclose((1 - level) * x0 + level * eps, x, atol=1e-4)


def test_levels_of_a_batch_may_differ(simple):
    condition, x = _start(simple)
    together = simple.predict(x, torch.tensor([0.9, 0.4]), condition)
    alone = simple.predict(x[1:], 0.4, condition.select([1]))
    assert torch.allclose(together.x0[1:], alone.x0, atol=1e-4)


def test_schedule_begins_at_the_noisiest_level_that_was_trained(simple):
    sigmas = simple.schedule(4, (64, 4))
    bar = simple.pipeline.scheduler.alphas_cumprod[[999, 749, 499, 249]]
    assert torch.allclose(sigmas[:4], (1 - bar).sqrt() / (bar.sqrt() + (1 - bar).sqrt()))
    assert sigmas[-1] == 0 and len(sigmas) == 5 and 0.93 < sigmas[0] < 0.94
    with pytest.raises(ValueError, match="trained on 1000 noise levels"):
        simple.schedule(1001, (64, 4))


def test_noisy_steps_replay(simple):
    condition, x = _start(simple)
    sigmas = simple.schedule(4, condition.latent_shape)
    trajectory = rollout(simple, condition, x, sigmas, (CPS(0.7), CPS(0.7), ODE(), ODE()), window=(0, 1))
    step = replay(simple, condition, trajectory, 1)
    assert torch.allclose(step.logp, trajectory.logp[1], atol=1e-5) and step.logp.requires_grad


def test_a_table_that_ends_without_signal(ip2p_pipeline):
    """Zero terminal SNR: the schedule starts at pure noise, from which v can still tell something."""
    pipeline = ip2p_pipeline("sd-v")
    pipeline.register_modules(
        scheduler=DDIMScheduler.from_config(pipeline.scheduler.config, rescale_betas_zero_snr=True)
    )
    editor = InstructPix2PixEditor(pipeline, **GUIDANCE)
    condition, x = _start(editor)
    sigmas = editor.schedule(4, condition.latent_shape)
    assert sigmas[0] == 1 and torch.equal(x, _noise(editor, condition))
    final = rollout(editor, condition, x, sigmas, ODE()).final
    expected = _from_pipeline(editor, _unit(editor, x, condition), "latent").flatten(2).mT
    assert torch.allclose(final, expected, rtol=1e-3, atol=1e-3)
    plain = ip2p_pipeline("sd")
    plain.register_modules(scheduler=DDIMScheduler.from_config(plain.scheduler.config, rescale_betas_zero_snr=True))
    with pytest.raises(ValueError, match="ends without signal .* predicts epsilon"):
        InstructPix2PixEditor(plain)


def _noise(editor, condition):
    return torch.stack([seeded_noise(condition.latent_shape, "prior", "group", member) for member in range(2)])


def test_guidance_and_area_are_the_pipelines_own_unless_said_otherwise(folders):
    simple, large = (load_editor(str(folders / kind)) for kind in ("sd", "xl"))
    assert (simple.guidance, large.guidance) == (7.5, 5.0)
    assert simple.max_area == large.max_area == (8 * 8) ** 2  # sample_size cells of 8 pixels


def test_the_autoencoder_is_not_run_in_float16_where_it_overflows(folders):
    editor = load_editor(f"{folders / 'xl'}?dtype=float16&max_area=4096")
    assert (editor.pipeline.vae.dtype, editor.dtype) == (torch.float32, torch.float16)
    condition = editor.encode([_source(0)], INSTRUCTIONS[:1])[0]
    assert condition.tensors["source"].dtype == torch.float32
    assert editor.decode(torch.zeros(1, 64, 4), condition).isfinite().all()


def test_text_encoders_wait_off_the_device(folders):
    """With `park`, they come to the device for what is not cached, and leave it at once."""
    editor = load_editor(f"{folders / 'xl'}?max_area=4096&park=cpu")
    editor.park = torch.device("meta")  # where they are told to go; the moves are only noted here
    moves = []
    for name in editor.encoders:
        part = getattr(editor.pipeline, name)
        part.to = lambda where, name=name: moves.append((name, str(where)))
        part.register_forward_pre_hook(lambda *_, name=name: moves.append((name, "works")))
    editor.encode([_source(0)], INSTRUCTIONS[:1])
    arrive, leave = ([(name, where) for name in editor.encoders] for where in ("cpu", "meta"))
    assert moves[:2] == arrive and moves[-2:] == leave
    assert {what for _, what in moves[2:-2]} == {"works"} and {name for name, _ in moves[2:-2]} == {*editor.encoders}
    count = len(moves)
    editor.encode([_source(0)], INSTRUCTIONS[:1])
    assert len(moves) == count


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_every_lora_parameter_gets_a_gradient(folders, kind):
    from peft import LoraConfig

    editor = load_editor(str(folders / kind), max_area=64 * 64, **GUIDANCE)
    editor.module.requires_grad_(False)
    config = LoraConfig(r=2, target_modules=list(editor.lora_targets), init_lora_weights=False)
    editor.module.add_adapter(config)
    condition, x = _start(editor)
    editor.predict(x, 0.5, condition).x0.square().mean().backward()
    trained = {name: p for name, p in editor.module.named_parameters() if p.requires_grad}
    assert trained and all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_exported_lora_works_in_plain_diffusers(folders, tmp_path, kind):
    from peft import LoraConfig

    editor = load_editor(str(folders / kind), max_area=64 * 64, **GUIDANCE)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=list(editor.lora_targets), init_lora_weights=False)
    editor.module.add_adapter(config)
    save_lora(editor, tmp_path / "lora")
    assert [path.name for path in (tmp_path / "lora").iterdir()] == ["pytorch_lora_weights.safetensors"]
    plain = type(editor.pipeline).from_pretrained(folders / kind)
    plain.load_lora_weights(tmp_path / "lora")
    condition, x = _start(editor)
    trained, untrained = (
        type(editor)(pipe, max_area=64 * 64, **GUIDANCE) for pipe in (plain, load_editor(str(folders / kind)).pipeline)
    )
    expected = editor.predict(x, 0.5, condition).x0
    assert torch.allclose(trained.predict(x, 0.5, condition).x0, expected, atol=1e-5)
    assert not torch.allclose(untrained.predict(x, 0.5, condition).x0, expected, atol=1e-2)


def test_conditions_are_cached_and_keep_the_shape_of_the_source(simple):
    first, again, other = simple.encode([_source(0), _source(0), _source(0, (64, 128))], [INSTRUCTIONS[0]] * 3)
    assert first is again and first is not other
    assert other.size == (48, 88) and simple.decode(torch.zeros(1, 6 * 11, 4), other).shape == (1, 3, 48, 88)
    x = simple.prior("g", 0, other.latent_shape)[None]
    assert simple.predict(x, 0.5, other).x0.shape == x.shape


def test_saved_folder_edits_the_same(editor, tmp_path):
    editor.save(tmp_path / "copy")
    copy = load_editor(str(tmp_path / "copy"))
    assert (copy.guidance, copy.image_guidance, copy.max_area, copy.default_steps) == (4.0, 1.5, 64 * 64, 4)
    (condition, x), (again, _) = _start(editor), _start(copy)
    assert torch.allclose(editor.predict(x, 0.6, condition).x0, copy.predict(x, 0.6, again).x0, atol=1e-5)
    kind = json.loads((tmp_path / "copy" / "model_index.json").read_text())["_class_name"]
    assert isinstance(getattr(diffusers, kind).from_pretrained(tmp_path / "copy"), type(editor.pipeline))


def test_what_cannot_be_right_is_refused(folders, ip2p_pipeline, tmp_path):
    with pytest.raises(ValueError, match="image_guidance is 0.5, but must be at least 1"):
        load_editor(f"{folders / 'sd'}?image_guidance=0.5")
    with pytest.raises(ValueError, match="unknown option of InstructPix2PixEditor 'max_tokens'"):
        load_editor(f"{folders / 'sd'}?max_tokens=3")
    with pytest.raises(ValueError, match="option dtype='int8' cannot be read: expected one of float32"):
        load_editor(f"{folders / 'sd'}?dtype=int8")
    pipeline = ip2p_pipeline("sd")
    pipeline.register_modules(scheduler=diffusers.FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler .* is not understood"):
        InstructPix2PixEditor(pipeline)
