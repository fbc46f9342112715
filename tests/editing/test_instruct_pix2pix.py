"""The InstructPix2Pix adapter against the diffusers pipelines it stands for, on small random checkpoints."""

import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from editing.editors import load_editor
from editing.editors.instruct_pix2pix import InstructPix2PixEditor
from editing.editors.lora import save_lora
from editing.fit.tiny import tiny_clip_tokenizer
from editing.rollout import replay, rollout
from editing.transition import CPS, DDIM, ODE, transition

INSTRUCTIONS = ["make the circle blue", "remove the red square"]
GUIDANCE = {"guidance": 4.0, "image_guidance": 1.5}
KINDS = ("sd", "sd-v", "xl")


def _text(projected: bool, tokenizer):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        projection_dim=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _pipeline(kind: str):
    """A random pipeline of the published architecture."""
    torch.manual_seed(0)
    tokenizer = tiny_clip_tokenizer(["make", "the", "circle", "blue", "remove", "red", "square"], 16)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.18215,
    )
    extra = {}
    if kind == "xl":
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 12,
        }
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=32 if kind == "xl" else 16,
        **extra,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type="v_prediction" if kind == "sd-v" else "epsilon",
    )
    parts = {"vae": vae, "unet": unet, "scheduler": scheduler}
    parts |= {"text_encoder": _text(False, tokenizer), "tokenizer": tokenizer}
    if kind == "xl":
        parts |= {"text_encoder_2": _text(True, tokenizer), "tokenizer_2": tokenizer}
        return diffusers.StableDiffusionXLInstructPix2PixPipeline(**parts, add_watermarker=False)
    parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return diffusers.StableDiffusionInstructPix2PixPipeline(**parts)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Random checkpoints on disk, as diffusers writes them."""
    root = tmp_path_factory.mktemp("checkpoints")
    for kind in KINDS:
        _pipeline(kind).save_pretrained(root / kind)
    return root


@pytest.fixture(scope="module", params=KINDS)
def editor(request, folders):
    return load_editor(str(folders / request.param), max_area=64 * 64, steps=4, **GUIDANCE)


@pytest.fixture(scope="module")
def simple(folders):
    return load_editor(f"{folders / 'sd'}?max_area=4096&steps=4&guidance=4", image_guidance=1.5)


def _source(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def _start(editor, count=2):
    condition = editor.collate(editor.encode([_source(row) for row in range(count)], INSTRUCTIONS[:count]))
    x = torch.stack([editor.prior("group", member, condition.latent_shape) for member in range(count)])
    return condition, x


def _unit(editor, x, condition):
    """The starting noise as the pipeline has it: a grid of unit deviation."""
    first = editor.schedule(4, condition.latent_shape)[0]
    grid = (x / ((1 - first) ** 2 + first**2).sqrt()).mT
    return grid.unflatten(2, tuple(side // 8 for side in condition.size))


def _from_pipeline(editor, latents, output, count=2, guidance=(4.0, 1.5)):
    size = {"height": 64, "width": 64} if editor.is_xl else {}
    return editor.pipeline(
        prompt=INSTRUCTIONS[:count],
        image=[_source(row) for row in range(count)],
        latents=latents,
        num_inference_steps=4,
        guidance_scale=guidance[0],
        image_guidance_scale=guidance[1],
        output_type=output,
        **size,
    ).images


def test_ode_rule_gives_the_pipelines_own_output(editor):
    condition, x = _start(editor)
    assert isinstance(editor, InstructPix2PixEditor) and condition.latent_shape == (64, 4)
    final = rollout(editor, condition, x, editor.schedule(4, condition.latent_shape), ODE()).final
    expected = _from_pipeline(editor, _unit(editor, x, condition), "latent").flatten(2).mT
    assert torch.allclose(final, expected, rtol=1e-4, atol=1e-4)
    images = _from_pipeline(editor, _unit(editor, x, condition), "np")
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


def test_every_lora_parameter_gets_a_gradient(folders):
    from peft import LoraConfig

    editor = load_editor(str(folders / "xl"), max_area=64 * 64, **GUIDANCE)
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


def test_what_cannot_be_right_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="image_guidance is 0.5, but must be at least 1"):
        load_editor(f"{folders / 'sd'}?image_guidance=0.5")
    with pytest.raises(ValueError, match="unknown option of InstructPix2PixEditor 'max_tokens'"):
        load_editor(f"{folders / 'sd'}?max_tokens=3")
    with pytest.raises(ValueError, match="option dtype='int8' cannot be read: expected one of float32"):
        load_editor(f"{folders / 'sd'}?dtype=int8")
    pipeline = _pipeline("sd")
    pipeline.register_modules(scheduler=diffusers.FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler .* is not understood"):
        InstructPix2PixEditor(pipeline)
