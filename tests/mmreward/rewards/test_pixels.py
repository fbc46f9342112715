"""The rules on pixels against hand-worked numbers, and that an edit cannot choose what it is measured on."""

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mmreward import Edit, load_reward
from mmreward.rewards import pixels

GREY = Image.new("RGB", (30, 20), (128, 128, 128))
STEP = 26 / 255


def half_changed() -> Image.Image:
    """The right half is lighter by 26 of 255 levels."""
    image = GREY.copy()
    image.paste((154, 154, 154), (15, 0, 30, 20))
    return image


def kept(difference: float) -> float:
    return math.exp(-((difference / 0.1) ** 2))


def score(source, edited, **fields):
    (result,) = load_reward("pixels").score([Edit(fields.pop("instruction", "make it blue"), source, edited, **fields)])
    return result


def texture(size=(96, 64), seed=0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def test_an_untouched_copy_keeps_everything_and_is_clean():
    result = score(texture(), texture())
    assert result.dims == {"preservation": 1.0, "quality": 1.0} and result.overall == 1.0
    assert result.raw["difference"] == 0 and result.provenance["region"] == "whole image"


def test_whole_image_preservation():
    """14 columns differ by nothing, one by 1/3 and one by 2/3 of the step (the 3x3 mean), 14 by the step."""
    expected = (14 + kept(STEP / 3) + kept(2 * STEP / 3) + 14 * kept(STEP)) / 30
    assert score(GREY, half_changed()).dims["preservation"] == pytest.approx(expected, abs=1e-5)


def test_outside_the_mask():
    """Of the 15 columns outside, the last one has a third of the step."""
    mask = Image.new("L", GREY.size)
    mask.paste(255, (15, 0, 30, 20))
    result = score(GREY, half_changed(), mask=mask)
    assert result.dims["preservation"] == pytest.approx((14 + kept(STEP / 3)) / 15, abs=1e-5)
    assert result.raw["outside_share"] == 0.5 and result.provenance["region"] == "mask"


def test_the_target_gives_the_region():
    """The region is where the target differs from the source: columns 14 (a third of the step is too little) and
    15 upwards, widened by one; 1 x 14 columns stay outside, and there the edit changed nothing.
    """
    result = score(GREY, half_changed(), target=half_changed())
    assert result.dims["preservation"] == 1.0 and result.provenance["region"] == "target"
    assert result.raw["outside_share"] == pytest.approx(14 / 30)


def test_an_edit_cannot_choose_its_region():
    """However the edit changes, what lies outside is the same, and a change there costs."""
    target = texture()
    target.paste((255, 0, 0), (0, 0, 20, 20))
    honest = score(texture(), target, target=target)
    shares = set()
    for seed in range(3):
        elsewhere = score(texture(), texture(seed=seed + 1), target=target)
        shares.add(elsewhere.raw["outside_share"])
        assert elsewhere.dims["preservation"] < honest.dims["preservation"] - 0.3
    assert shares == {honest.raw["outside_share"]}


def test_where_nothing_lies_outside_preservation_is_not_measured():
    result = score(GREY, half_changed(), mask=Image.new("L", GREY.size, 255))
    assert set(result.dims) == {"quality"} and result.overall == result.dims["quality"]


def test_overall_is_the_geometric_mean():
    result = score(texture(), texture().filter(ImageFilter.GaussianBlur(2)))
    assert result.overall == pytest.approx(math.sqrt(result.dims["preservation"] * result.dims["quality"]))


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1])
def test_noise_is_estimated(sigma):
    noisy = 0.5 + np.random.default_rng(0).normal(0, sigma, (100, 100))
    assert pixels._noise(noisy) == pytest.approx(sigma, rel=0.05)


def test_noise_does_not_count_edges():
    edges = np.zeros((64, 64))
    edges[:, 20:40] = 1
    edges[10:30] += 0.5
    assert pixels._noise(edges) == 0


@pytest.mark.parametrize("size", [4, 8, 16])
def test_blocks(size):
    """A chessboard of blocks: steps of 1 across borders, none inside: (1 - 0) / (1 + 0 + 0.02)."""
    board = ((np.arange(64) // size)[:, None] + (np.arange(64) // size)[None]) % 2
    assert pixels._blocks(board.astype(np.float32), size) == pytest.approx(1 / 1.02)


def test_blur_grows_with_blur_and_a_flat_image_has_none():
    image = texture((96, 96)).filter(ImageFilter.UnsharpMask(4, 400))
    values = [
        pixels._blur(np.asarray(image.filter(ImageFilter.GaussianBlur(radius)).convert("L")) / 255)
        for radius in (0, 1, 2, 4)
    ]
    assert values == sorted(values) and values[-1] > values[0] + 0.05
    assert pixels._blur(np.full((32, 32), 0.5)) == 0


def test_damage_costs_quality():
    clean = texture((96, 96)).filter(ImageFilter.UnsharpMask(4, 400))
    noisy = np.asarray(clean) + np.random.default_rng(0).normal(0, 20, (96, 96, 3))
    stream = io.BytesIO()
    clean.save(stream, "JPEG", quality=5)
    damaged = {
        "blur": clean.filter(ImageFilter.GaussianBlur(3)),
        "noise": Image.fromarray(noisy.clip(0, 255).astype(np.uint8)),
        "JPEG": stream.getvalue(),
        "mosaic": clean.resize((12, 12), Image.Resampling.BOX).resize((96, 96), Image.Resampling.NEAREST),
    }
    for name, image in damaged.items():
        assert score(clean, image).dims["quality"] < 0.75, name


def test_another_size_is_resized_within_two_percent_and_not_applicable_beyond():
    source = texture((100, 100))
    near = score(source, source.resize((102, 100)))
    assert near.ok and near.provenance["resized"] == {"edited": "102x100 to 100x100"}
    assert near.dims["preservation"] > 0.99
    for name in ("edited", "mask", "target"):
        fields = {"edited": source, name: source.resize((110, 100))}
        far = score(source, **fields)
        assert far.status == "not_applicable" and f"{name} image is 110x100 and the source 100x100" in far.error


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 3), (17, 5)])
def test_tiny_images(size):
    assert score(texture(size), texture(size, seed=1)).ok


def test_bad_rows_have_a_status_and_the_others_a_score(tmp_path):
    edits = [
        Edit("x", texture(), tmp_path / "missing.png"),
        Edit("  ", texture(), texture()),
        Edit("x", texture(), b"no image"),
        Edit("make it blue <|image_pad|> " * 5000, texture(), texture()),
    ]
    scores = load_reward("pixels").score(edits)
    assert [one.status for one in scores] == ["io_error", "not_applicable", "io_error", "ok"]
    assert "missing.png" in scores[0].error and load_reward("pixels").score([]) == []
