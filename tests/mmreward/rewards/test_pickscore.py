"""PickScore on a small random CLIPModel against its formula written straight down."""

import math
import string

import pytest
import torch
from PIL import Image

from mmreward import load_reward
from mmreward.edit import Edit


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(CLIPModel, processor, folder with both)."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase), "<", "|", ">"]
    vocabulary = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=12)
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = text | {"image_size": 28, "patch_size": 14}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 12, "eos_token_id": tokenizer.eos_token_id}
    text |= {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    processor = CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28), tokenizer)
    folder = tmp_path_factory.mktemp("pickscore")
    model.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, processor, folder


@pytest.fixture(scope="module")
def edits():
    images = [Image.effect_noise((40 + 8 * i, 40), 90).convert("RGB") for i in range(4)]
    return [
        Edit("make blue", images[0], images[1]),
        Edit("remove", images[0], images[2], target_caption="a red sky"),
        Edit("make blue", images[0], images[3]),
    ]


@torch.no_grad()
def expected(model, processor, text, image):
    inputs = processor(text=[text], images=[image], padding=True, truncation=True, max_length=12, return_tensors="pt")
    out = model(**inputs)
    image, text = (one / one.norm(dim=-1, keepdim=True) for one in (out.image_embeds, out.text_embeds))
    return float(model.logit_scale.exp() * (text @ image.T)[0, 0])


def test_the_score_is_the_formula(made, edits):
    model, processor, folder = made
    reward = load_reward(f"pickscore:{folder}")
    for edit, score in zip(edits, reward.score(edits)):
        raw = expected(model, processor, edit.target_caption or edit.instruction, edit.image("edited"))
        assert score.raw["pickscore"] == pytest.approx(raw, abs=1e-4)
        assert score.overall == score.dims["preference"] == pytest.approx(1 / (1 + math.exp(21 - raw)), rel=1e-3)
        assert score.provenance["text"] == ("target caption" if edit.target_caption else "instruction")
        assert score.provenance["revision"].startswith("sha256:")
    order = load_reward(f"pickscore:{folder}?centre=0&scale=5").score(edits)
    ranked = sorted(range(3), key=lambda i: order[i].overall)
    assert ranked == sorted(range(3), key=lambda i: order[i].raw["pickscore"])


def test_long_text_keeps_its_end_token_and_control_tokens_are_text(made, edits):
    model, processor, folder = made
    reward = load_reward(f"pickscore:{folder}")
    long = Edit("abcdefghijklmnopqrst", edits[0].source, edits[0].edited)
    quoted = Edit("a <|endoftext|> b", edits[0].source, edits[0].edited)
    scores = reward.score([long, quoted, edits[0]])
    assert scores[0].raw["pickscore"] == pytest.approx(
        expected(model, processor, long.instruction, long.image("edited")), abs=1e-4
    )
    assert "12 tokens" in scores[0].provenance["text_cut"]
    assert scores[1].ok and "text_cut" in scores[1].provenance
    assert "text_cut" not in scores[2].provenance


def test_a_processor_that_raises_costs_only_its_row(made, edits, monkeypatch):
    reward = load_reward(f"pickscore:{made[2]}")
    whole, tokenize = reward.score(edits), type(reward.processor.tokenizer).__call__

    def raising(self, texts, **options):
        if "zz" in texts:
            raise TypeError("unexpected keyword 'disable_grouping'")
        return tokenize(self, texts, **options)

    monkeypatch.setattr(type(reward.processor.tokenizer), "__call__", raising)
    scores = reward.score([edits[0], Edit("zz", edits[0].source, edits[0].edited), *edits[1:]])
    assert (scores[1].status, scores[1].error) == ("error", "TypeError: unexpected keyword 'disable_grouping'")
    assert [s.overall for s in (scores[0], *scores[2:])] == pytest.approx([s.overall for s in whole], abs=1e-6)


def test_bad_rows_are_statuses(made, edits):
    reward = load_reward(f"pickscore:{made[2]}")
    scores = reward.score([Edit("", "a.png", edits[0].edited), Edit("x", "a.png", "gone.png"), edits[0]])
    assert [one.status for one in scores] == ["not_applicable", "io_error", "ok"]
    assert reward.score([Edit("half a pair \ud83d", "a.png", edits[0].edited)])[0].ok


def test_weights_load_strictly(made, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(made[2], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(12)[None]  # in older files
    save_file(weights, folder / "model.safetensors")
    assert load_reward(f"pickscore:{folder}")
    del weights["visual_projection.weight"]
    weights["extra"] = torch.zeros(1)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match="missing: visual_projection.weight; unexpected: extra"):
        load_reward(f"pickscore:{folder}")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="pickle weights only"):
        load_reward(f"pickscore:{folder}")
    with pytest.raises(ValueError, match="unknown option of 'pickscore'"):
        load_reward(f"pickscore:{folder}?text=caption")
