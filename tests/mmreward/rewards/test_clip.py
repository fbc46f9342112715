"""The CLIP reward against plain calls of open_clip, closed forms, and everything that a model folder can lack."""

import math
import shutil
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mmreward import Edit, load_reward
from mmreward.monotone import MonotoneMap
from mmreward.rewards.clip import DEFAULT_MAPS, load
from mmreward.rewards.clip_cosines import Cosines, cosines
from mmreward.shapes import World

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained model folder: the real architecture, very small."""
    from safetensors.torch import save_file

    from mmreward.fit.clip import ModelConfig, model_config
    from mmreward.fit.clip_data import build_tokenizer
    from mmreward.fit.clip_export import write_config

    folder = tmp_path_factory.mktemp("clip") / "model"
    folder.mkdir()
    torch.manual_seed(0)
    tokenizer = build_tokenizer(samples=200)
    sizes = ModelConfig(vision_width=64, vision_layers=1, text_width=64, text_layers=1, embed=32)
    config = model_config(sizes, len(tokenizer))
    model = open_clip.model.CLIP(**config)
    save_file({name: value.clone() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    write_config(folder, config)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reward(folder):
    return load(str(folder))


@pytest.fixture(scope="module")
def edits():
    world = World("train", kept_out="include")
    found = []
    for task in world.tasks(3):
        captions = {"source_caption": task.source_caption, "target_caption": task.target_caption}
        source = Image.fromarray(task.source_image)
        for candidate in world.candidates(task, 4):
            found.append(Edit(task.instruction, source, Image.fromarray(candidate.image), **captions))
    return found


def test_cosines_are_those_of_plain_open_clip_calls(folder, reward, edits):
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    for edit, score in zip(edits, reward.score(edits), strict=True):
        with torch.no_grad():
            pixels = torch.stack([preprocess(edit.image("source")), preprocess(edit.image("edited"))])
            before, after = model.encode_image(pixels, normalize=True)
            first, last = model.encode_text(tokenize([edit.source_caption, edit.target_caption]), normalize=True)
        assert score.raw["alignment"] == pytest.approx(float(after @ last), abs=1e-5)
        assert score.raw["image"] == pytest.approx(float(before @ after), abs=1e-5)
        if score.provenance["direction"] != "no edit":
            moved, asked = after - before, last - first
            expected = torch.cosine_similarity(moved, asked, dim=0)
            assert score.raw["direction"] == pytest.approx(float(expected), abs=1e-4)


def test_direction_in_closed_form():
    """Source at e1, edit turned by 60 degrees towards e2: the delta is (-1/2, sqrt(3)/2)."""
    source = torch.tensor([1.0, 0.0, 0.0])
    edited = torch.tensor([0.5, math.sqrt(0.75), 0.0])
    first, last = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    found = cosines(source, edited, first, last).values  # text delta (0, 1, -1), of length sqrt(2)
    assert found["direction"] == pytest.approx(math.sqrt(0.75) / math.sqrt(2))
    assert found["alignment"] == pytest.approx(math.sqrt(0.75))
    assert found["progress"] == pytest.approx(math.sqrt(0.75) / 2)
    assert found["image"] == pytest.approx(0.5)
    assert found["change"] == pytest.approx(0.5)  # |(-1/2, sqrt(3)/2)|^2 / 2
    # |r|^2 = 1 - 3/8; kept = 1 - 5/16
    assert found["kept"] == pytest.approx(1 - 5 / 16)
    plain = cosines(source, edited, None, last, caption=False).values
    assert plain["gain"] == pytest.approx(math.sqrt(0.75)) and "alignment" not in plain


def test_no_edit_is_told_apart_from_nothing_asked():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    untouched = cosines(a, a, a, b)
    assert (untouched.values["direction"], untouched.direction_is) == (0.0, "no edit")
    nothing_asked = cosines(a, b, a, a)
    assert "direction" not in nothing_asked.values and nothing_asked.direction_is == "the captions say the same"
    assert "direction" not in cosines(a, a, a, a).values
    assert cosines(a, b, None, b).direction_is == "no captions"
    assert cosines(a, a, None, b, caption=False).direction_is == "no edit"


def test_an_untouched_copy_says_so_and_has_followed_nothing(reward, edits):
    edit = edits[0]
    same = Edit("x", edit.source, edit.image("source").copy(), source_caption="a", target_caption=edit.target_caption)
    (score,) = reward.score([same])
    assert score.ok and score.raw["change"] == 0 and score.provenance["direction"] == "no edit"
    assert score.overall == score.dims["instruction_following"] == 0 and score.dims["preservation"] == 1


def test_a_small_change_counts_by_how_far_the_image_moved(reward, edits):
    """Half of the way to a change of .002 is half of what the parts say; where nothing was asked, all of it counts."""
    score = reward._score(
        edits[0], Cosines({"alignment": 0.2, "direction": 0.2, "image": 0.999, "change": 0.001}, "captions"), False
    )
    assert score.dims["instruction_following"] == pytest.approx(0.5 * 0.5)
    idle = reward._score(
        edits[0], Cosines({"alignment": 0.2, "image": 1.0, "change": 0.0}, "the captions say the same"), False
    )
    assert idle.dims["instruction_following"] == pytest.approx(0.5)


def test_scores_follow_the_maps_and_do_not_depend_on_the_batch(folder, edits):
    whole, single = load(str(folder)).score(edits), load(str(folder), batch="1").score(edits)
    for a, b in zip(whole, single, strict=True):
        assert a.overall == pytest.approx(b.overall, abs=1e-5)
        following, kept = a.dims["instruction_following"], a.dims["preservation"]
        assert a.overall == pytest.approx(following * (0.6 + 0.4 * kept))
        assert "quality" not in a.dims


def test_without_captions_the_instruction_is_the_text(reward, edits):
    bare = Edit(edits[1].instruction, edits[1].source, edits[1].edited)
    (score,) = reward.score([bare])
    assert "alignment" not in score.raw and "direction" not in score.raw
    assert score.dims["instruction_following"] == pytest.approx(reward.maps["instruction"](score.raw["instruction"]))
    assert score.provenance["text"] == "instruction"


def test_tensor_agrees_with_score_and_has_a_gradient(reward, edits):
    def pixels(name):
        return torch.stack([torch.from_numpy(np.array(e.image(name))).permute(2, 0, 1) / 255 for e in edits])

    edited = pixels("edited").requires_grad_()
    values = reward.tensor(pixels("source"), edited, [e.instruction for e in edits])
    bare = [Edit(e.instruction, e.source, e.edited) for e in edits]
    assert values.tolist() == pytest.approx([s.overall for s in reward.score(bare)], abs=1e-4)
    values.sum().backward()
    assert torch.isfinite(edited.grad).all() and edited.grad.abs().sum() > 0


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["squash", "shortest", "longest"])
@pytest.mark.parametrize("size", [(64, 64), (150, 90), (90, 151), (40, 50)], ids=str)
def test_tensors_are_preprocessed_as_open_clip_preprocesses_images(reward, resize_mode, interpolation, size):
    """Up to rounding to bytes, which is half of a grey level (1/255 of the range of 2) after a resize."""
    settings = {**reward.model.preprocessing, "resize_mode": resize_mode, "interpolation": interpolation}
    other = copy(reward)
    other.model = replace(reward.model, preprocessing=settings)
    theirs = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**settings), is_train=False)
    image = Image.fromarray(World("train").task(1).source_image).resize(size, Image.Resampling.BICUBIC)
    expected = theirs(image)
    pixels = other._fit(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255)
    assert pixels.shape[1:] == expected.shape
    difference = (pixels[0] - expected).abs()
    assert difference.mean() < 2 / 255 and difference.max() < 8 / 255


def test_bad_rows_get_a_status_and_the_good_ones_their_score(reward, edits, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows = [
        Edit("make it red", tmp_path / "missing.png", edits[0].edited),
        edits[0],
        Edit("make it red", edits[0].source, tmp_path / "broken.png"),
        Edit("  ", edits[0].source, edits[0].edited),
        Edit("word " * 500, edits[0].source, edits[0].edited),
        Edit("remove <eos> the circle <pad>", edits[0].source, edits[0].edited),
    ]
    scores = reward.score(rows)
    assert [s.status for s in scores] == ["io_error", "ok", "io_error", "not_applicable", "ok", "ok"]
    assert "missing.png" in scores[0].error and "broken.png" in scores[2].error
    assert "only the first" in scores[4].provenance["text_cut"] and "text_cut" not in scores[1].provenance
    assert reward.score([]) == []


def test_special_tokens_in_a_text_are_words(reward):
    ids = reward.model.tokenize(["remove <eos> the circle"])
    assert int((ids[0] == 2).sum()) == 1
    assert torch.allclose(reward.embed_texts(["a <eos> b"]), reward.embed_texts(["a < e o s > b"]))


def test_domain_of_the_model_is_kept_unless_the_caller_insists(folder, tmp_path, edits):
    about = shutil.copytree(folder, tmp_path / "shapes") / "mmreward.json"
    about.write_text('{"domain": "shapes", "maps": {"alignment": {"x": [-1, 1], "y": [0, 1]}}}')
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8))
    photo = Edit("make it warmer", noise, noise)
    (score,) = load(str(about.parent)).score([photo])
    assert score.status == "not_applicable" and "photos" in score.error
    (score,) = load(str(about.parent), domain="any").score([photo])
    assert score.ok and score.provenance["domain"] == "ignored" and score.provenance["maps"] == "fitted"
    (score,) = load(str(about.parent)).score(edits[:1])
    expected = (score.raw["alignment"] + 1) / 2 + DEFAULT_MAPS["direction"](score.raw["direction"])
    moved = DEFAULT_MAPS["change"](score.raw["change"])
    assert score.ok and score.dims["instruction_following"] == pytest.approx(moved * expected / 2)


def test_weights_that_give_no_number_are_a_failure(folder, tmp_path, edits):
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(folder, tmp_path / "nan")
    state = load_file(broken / "model.safetensors")
    state["visual.proj"] *= math.nan
    save_file(state, broken / "model.safetensors")
    (score,) = load(str(broken)).score(edits[:1])
    assert score.status == "parse_error" and math.isnan(score.overall)


@pytest.mark.parametrize("name", ["open_clip_config.json", "model.safetensors", "tokenizer_config.json"])
def test_a_missing_file_is_named(folder, tmp_path, name):
    part = shutil.copytree(folder, tmp_path / "part")
    (part / name).unlink()
    with pytest.raises(FileNotFoundError, match="safetensors" if "model." in name else name):
        load(str(part))


def test_pickle_weights_are_refused(folder, tmp_path):
    part = shutil.copytree(folder, tmp_path / "part")
    (part / "model.safetensors").unlink()
    torch.save({}, part / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match="pickle.*refused"):
        load(str(part))


def test_weights_of_another_model_are_a_clear_error(folder, tmp_path):
    part = shutil.copytree(folder, tmp_path / "part")
    text = (part / "open_clip_config.json").read_text().replace('"embed_dim": 32', '"embed_dim": 48')
    (part / "open_clip_config.json").write_text(text)
    with pytest.raises(ValueError, match="size mismatch"):
        load(str(part))


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ValueError, match="'ViT-B-32/laion2b_s34b_b79k'"):
        load_reward("clip:ViT-B-32/laion2b_s34b_b79")
    with pytest.raises(ValueError, match="Did you mean 'tiny'"):
        load_reward("clip:tinny")
    with pytest.raises(ValueError, match="Did you mean 'batch'"):
        load_reward("clip:tiny?batchs=3")
    with pytest.raises(ValueError, match="whole number"):
        load_reward("clip:tiny?batch=0")
    with pytest.raises(ValueError, match="needs a model"):
        load_reward("clip")
    with pytest.raises(FileNotFoundError, match="no model folder"):
        load_reward("clip:local-dir:/does/not/exist")


def test_a_hub_name_takes_safetensors_and_refuses_pickle(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def pickles_only(repository, allow_patterns, **options):
        asked.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", pickles_only)
    with pytest.raises(ValueError, match="pickle weights are refused"):
        load_reward("clip:ViT-B-32/laion2b_s34b_b79k")
    assert asked and all(repository == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K" for repository, _ in asked)
    assert all(file.endswith(".safetensors") for _, patterns in asked for file in patterns)


def test_a_hub_folder_loads_like_a_local_one(folder, monkeypatch, edits):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repository, **options: str(folder))
    hub, local = load_reward("clip:hf-hub:someone/something"), load_reward(f"clip:{folder}")
    assert hub.name == "clip:hf-hub:someone/something"
    assert [s.overall for s in hub.score(edits)] == pytest.approx([s.overall for s in local.score(edits)], abs=1e-5)


def test_maps_of_a_folder_are_checked(folder, tmp_path):
    part = shutil.copytree(folder, tmp_path / "part")
    (part / "mmreward.json").write_text('{"maps": {"alignment": {"x": [0, 1], "y": [1, 0]}}}')
    with pytest.raises(ValueError, match="must not decrease"):
        load(str(part))
    (part / "mmreward.json").write_text('{"maps": {"direktion": {"x": [0, 1], "y": [0, 1]}}}')
    with pytest.raises(ValueError, match="Did you mean 'direction'"):
        load(str(part))
    assert isinstance(DEFAULT_MAPS["image"], MonotoneMap)


def test_the_bundled_model_puts_right_edits_before_wrong_ones_and_knows_no_photo():
    reward = load_reward("clip:tiny")
    assert reward.name == "clip:tiny"
    world, found = World("test", kinds=("recolour", "add", "background")), []
    for task in world.tasks(12):
        captions = {"source_caption": task.source_caption, "target_caption": task.target_caption}
        source = Image.fromarray(task.source_image)
        pair = (Image.fromarray(task.target_image), source.copy())
        found.append([s.overall for s in reward.score([Edit(task.instruction, source, p, **captions) for p in pair])])
    right, untouched = np.mean(found, axis=0)
    assert right > 0.8 and untouched < 0.2
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8))
    (score,) = reward.score([Edit("make it warmer", photo, photo)])
    assert score.status == "not_applicable"
