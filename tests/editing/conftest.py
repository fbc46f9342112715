"""Small random editors of each family, made once for all tests of editing."""

import copy

import pytest
import torch

IP2P_KINDS = ("sd", "sd-v", "xl", "xl-v")
QWEN_KINDS = {"edit": "QwenImageEditPipeline", "plus": "QwenImageEditPlusPipeline"}
WORDS = ["make", "the", "circle", "blue", "red", "remove", "green", "square", "a", "add", "at", "top"]


@pytest.fixture(scope="module")
def random_editor(editor_once):
    """A copy for each module, for training changes it."""
    return copy.deepcopy(editor_once)


@pytest.fixture(scope="session")
def editor_once():
    from editing.editors.kontext import KontextEditor
    from editing.fit.tiny import EditorShape, VAEShape, tiny_pipeline, tiny_vae

    torch.manual_seed(0)
    vae = tiny_vae(VAEShape(channels=8, latent_channels=4))
    shape = EditorShape(
        double_blocks=1,
        single_blocks=1,
        heads=2,
        head_dim=16,
        axes=(4, 6, 6),
        text_width=32,
        text_layers=1,
        max_tokens=32,
    )
    pipeline = tiny_pipeline(vae, WORDS, shape)
    pipeline.set_progress_bar_config(disable=True)
    # The published initialisation ends in zeros; random weights make the comparisons mean something.
    torch.nn.init.normal_(pipeline.transformer.proj_out.weight, std=0.2)
    return KontextEditor(pipeline, name="random", guidance=2.5, max_area=64 * 64, max_tokens=shape.max_tokens, steps=4)


@pytest.fixture(scope="session")
def qwen_folders(tmp_path_factory):
    """Random checkpoints of the published architecture, as diffusers writes them; the weights are the same."""
    import diffusers

    from mmreward.fit.judge_model import ModelConfig, new_model, new_processor, new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer(["make the circle blue"] * 5, 400)
    sizes = ModelConfig(hidden=64, layers=3, mlp=64, vision_width=32, vision_layers=1, vision_mlp=32, vocabulary=400)
    network = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=64,
        axes_dims_rope=(4, 6, 6),
    )
    parts = {
        "vae": diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 2.0, 0.5, 1.0],
        ),
        "text_encoder": new_model(sizes, tokenizer),
        "tokenizer": tokenizer,
        "processor": new_processor(tokenizer),
        "transformer": network,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
        ),
    }
    root = tmp_path_factory.mktemp("checkpoints")
    for kind, name in QWEN_KINDS.items():
        getattr(diffusers, name)(**parts).save_pretrained(root / kind)
    return root


@pytest.fixture(scope="session")
def ip2p_folders(tmp_path_factory):
    """Random InstructPix2Pix checkpoints on disk, as diffusers writes them: SD, SD that predicts v, SDXL."""
    root = tmp_path_factory.mktemp("checkpoints")
    for kind in IP2P_KINDS:
        _ip2p_pipeline(kind).save_pretrained(root / kind)
    return root


@pytest.fixture(scope="session")
def ip2p_pipeline():
    """kind -> a random pipeline of the published architecture."""
    return _ip2p_pipeline


def _clip_text(projected: bool, tokenizer):
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


def _ip2p_pipeline(kind: str):
    import diffusers

    from editing.fit.tiny import tiny_clip_tokenizer

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
    if kind.startswith("xl"):
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
        cross_attention_dim=32 if kind.startswith("xl") else 16,
        **extra,
    )
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type="v_prediction" if kind.endswith("-v") else "epsilon",
    )
    parts = {"vae": vae, "unet": unet, "scheduler": scheduler}
    parts |= {"text_encoder": _clip_text(False, tokenizer), "tokenizer": tokenizer}
    if kind.startswith("xl"):
        parts |= {"text_encoder_2": _clip_text(True, tokenizer), "tokenizer_2": tokenizer}
        return diffusers.StableDiffusionXLInstructPix2PixPipeline(**parts, add_watermarker=False)
    parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return diffusers.StableDiffusionInstructPix2PixPipeline(**parts)
