"""Edits: what images may look like, what is refused and how, and which edits are the same."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmreward import Edit, ImageError
from mmreward.edit import MAX_PIXELS, fit, open_image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def plain(colour="red", size=(4, 3)) -> Image.Image:
    return Image.new("RGB", size, colour)


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG with a true header and no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))

REFUSED = {
    "missing": ("nowhere.png", "'nowhere.png' not found"),
    "none": (None, "missing: the row names none"),
    "no name": ("", "missing: the row names none"),
    "folder": (".", "is not a file"),
    "no bytes": (b"", "empty (0 bytes)"),
    "text": (b"this is not an image", "is not an image that can be read"),
    "a program for Ghostscript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "is not an image that can be read",
    ),
    "truncated PNG": (encoded(NOISE)[:3000], "cannot be decoded"),
    "truncated JPEG": (encoded(NOISE, "JPEG")[:900], "cannot be decoded"),
    "only a header": (encoded(NOISE)[:20], "an"),
    "decompression bomb": (png_that_claims(50_000, 50_000), f"more than {MAX_PIXELS:,} pixels"),
    "suspiciously large": (png_that_claims(10_000, 10_000), f"10000 x 10000 is more than {MAX_PIXELS:,} pixels"),
    "animation": (encoded(plain(), "GIF", save_all=True, append_images=[plain("blue")]), "animation"),
    "animated PNG": (encoded(plain(), save_all=True, append_images=[plain("blue")]), "animation"),
    "several pages": (encoded(plain(), "TIFF", save_all=True, append_images=[plain("blue")]), "several pages (2)"),
    "beyond 16 bits": (encoded(Image.new("I", (2, 2), 70_000), "TIFF"), "beyond 16 bits"),
    "a number": (7, "must be a PIL image, a path, bytes, base64 or an array, got int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name):
    value, reason = REFUSED[name]
    with pytest.raises(ImageError) as raised:
        Edit("make it blue", value, plain()).image("source")
    assert raised.value.status == "io_error"
    assert raised.value.message.startswith("source image") and reason in raised.value.message


def test_a_file_that_is_empty_or_cannot_be_decoded_is_named(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.jpg").write_bytes(encoded(NOISE, "JPEG")[:900])
    for name in ("empty.png", "cut.jpg"):
        with pytest.raises(ImageError, match=name):
            open_image(tmp_path / name)


def test_candidates_of_one_source_decode_its_file_once(tmp_path):
    path = tmp_path / "source.png"
    plain("red").save(path)
    first, second = (Edit("make it blue", path, plain("blue")).image("source") for _ in range(2))
    assert first is second and first.getpixel((0, 0)) == (255, 0, 0)
    plain("lime", (9, 7)).save(path)
    assert Edit("make it blue", path, plain("blue")).image("source").getpixel((0, 0)) == (0, 255, 0)


def test_a_truncated_pil_image_is_an_image_error():
    broken = Image.open(io.BytesIO(encoded(NOISE)[:3000]))
    with pytest.raises(ImageError, match="cannot be decoded"):
        Edit("x", broken, plain()).image("source")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),  # transparent: the white behind it
        (Image.new("RGBA", (2, 2), (0, 0, 0, 51)), (204, 204, 204)),  # 255 x (1 - 51/255)
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.new("L", (2, 2), 7), (7, 7, 7)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("I;16", (2, 2), 65535), (255, 255, 255)),
        (Image.new("I;16", (2, 2), 257 * 100), (100, 100, 100)),  # 16 bits: v / 257, not clipped at 255
        (Image.new("I", (2, 2), 257 * 9), (9, 9, 9)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (255, 0, 0)),
        (plain().convert("P"), (255, 0, 0)),
    ],
)
def test_every_kind_of_pixel_becomes_8_bit_rgb(value, expected):
    kind = "TIFF" if value.mode in ("CMYK", "I") else "PNG"
    for form in (value, encoded(value, kind)):
        image = Edit("x", form, plain()).image("source")
        assert image.mode == "RGB" and image.getpixel((0, 0)) == expected


def test_turned_upright_by_exif():
    image = plain("red", (4, 2))
    image.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the top left corner comes to the top right
    upright = open_image(encoded(image, exif=exif))
    assert upright.size == (2, 4) and upright.getpixel((1, 0)) == (0, 0, 255)


def test_mask_is_grey_and_must_be_opaque():
    edit = Edit("x", plain(), plain(), mask=Image.new("RGB", (4, 3), "white"))
    assert edit.image("mask").mode == "L" and edit.image("mask").getpixel((0, 0)) == 255
    with pytest.raises(ImageError, match="transparent parts"):
        Edit("x", plain(), plain(), mask=Image.new("RGBA", (4, 3), (255, 255, 255, 0))).image("mask")


def test_path_bytes_and_image_are_the_same_edit(tmp_path):
    NOISE.save(tmp_path / "a.png")
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), encoded(NOISE), NOISE]
    assert len({Edit("x", form, form).key for form in forms}) == 1


def test_key_is_what_a_reward_sees_and_nothing_else():
    base = {"instruction": "x", "source": plain(), "edited": plain("blue")}
    edit = Edit(**base)
    assert Edit(**base, id="7", meta={"editor": "a"}).key == edit.key
    changed = [
        {"instruction": "y"}, {"source": plain("green")}, {"edited": plain("green")}, {"mask": plain("white")},
        {"target": plain("white")}, {"inputs": [plain("white")]}, {"criteria": "a"}, {"source_caption": "a"},
        {"target_caption": "a"},
        {"edited": plain("blue", (3, 4))},
    ]  # fmt: skip
    keys = [Edit(**{**base, **change}).key for change in changed]
    assert len({edit.key, *keys}) == len(changed) + 1


def test_group_is_source_pixels_and_instruction():
    group = Edit("x", plain(), plain("blue")).group
    assert Edit("x", plain(), plain("green"), criteria="c").group == group
    assert Edit("x", plain("blue"), plain("blue")).group != group
    assert Edit("y", plain(), plain("blue")).group != group


def test_an_edit_cannot_change_and_opens_its_images_once(tmp_path):
    NOISE.save(tmp_path / "a.png")
    edit = Edit("x", tmp_path / "a.png", NOISE)
    first = edit.image("source")
    (tmp_path / "a.png").unlink()
    assert edit.image("source") is first
    with pytest.raises(AttributeError):
        edit.instruction = "y"
    with pytest.raises(TypeError, match="instruction must be a string, got int"):
        Edit(3, NOISE, NOISE)


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        ((100, 100), True),
        ((96, 96), True),
        ((102, 100), True),
        ((103, 100), False),
        ((100, 103), False),
        ((1, 1), True),
    ],
)
def test_fit_allows_two_percent_of_aspect_ratio(size, fits):
    result = fit(plain(size=size), (100, 100))
    assert (result is not None) == fits
    assert result is None or result.size == (100, 100)
