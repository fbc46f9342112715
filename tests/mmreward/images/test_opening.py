"""Opening: metadata never costs the picture, texts may be images, and a size is that of what is opened."""

import base64
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from mmreward.edit import MAX_PIXELS, ImageError, image_size, open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)
SMOOTH = Image.fromarray(np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[:, None], 48, 1)).convert("RGB")


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind, data, checksum=None):
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png_with(*chunks, behind=False):
    """The picture with chunks before or behind its pixels."""
    whole = encoded(PICTURE)
    place = len(whole) - 12 if behind else 33
    return whole[:place] + b"".join(chunks) + whole[place:]


def info_with(method, *arguments, **options):
    info = PngImagePlugin.PngInfo()
    getattr(info, method)(*arguments, **options)
    return info


def large_profile():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(2 << 20)
    return struct.pack(">I", len(profile)) + profile[4:]


def tiff(*tags):
    """The content of EXIF with these tags: (number, type, count, four bytes)."""
    entries = b"".join(struct.pack(">HHI", *tag[:3]) + tag[3] for tag in tags)
    return b"MM\0\x2a\0\0\0\x08" + struct.pack(">H", len(tags)) + entries + bytes(4)


TURNED = (0x0112, 3, 1, struct.pack(">HH", 6, 0))
"""To be shown turned by 90 degrees clockwise."""

ODD_METADATA = {
    "a colour profile of 2 MB": encoded(PICTURE, icc_profile=large_profile()),
    "compressed text of 3 MB": encoded(PICTURE, pnginfo=info_with("add_text", "w", "x" * (3 << 20), zip=True)),
    "international text of 2 MB": encoded(PICTURE, pnginfo=info_with("add_itxt", "p", "x" * (2 << 20), zip=True)),
    "large text behind the pixels": png_with(chunk(b"zTXt", b"w\0\0" + zlib.compress(b"x" * (2 << 20))), behind=True),
    "EXIF that is none": png_with(chunk(b"eXIf", b"b'Exif\\x00\\x00MM'")),
    "text with a wrong checksum": png_with(chunk(b"tEXt", b"a\0b", checksum=7)),
}


@pytest.mark.parametrize("name", ODD_METADATA)
def test_odd_metadata_costs_nothing(name):
    data = ODD_METADATA[name]
    assert (np.asarray(open_image(data)) == PIXELS).all() and image_size(data) == (16, 12)


@pytest.mark.parametrize(
    "beside",
    [(0x011A, 2, 4, b"72\0\0"), (0x0100, 8, 1, struct.pack(">hh", -3, 0)), (0x0132, 2, 0xFFFF, struct.pack(">I", 9))],
    ids=["a resolution as text", "a negative size", "a date that lies outside"],
)
def test_upright_whatever_stands_beside_the_orientation(beside):
    expected = np.rot90(np.asarray(SMOOTH), -1)
    exif = tiff(*sorted([beside, TURNED]))
    whole = encoded(SMOOTH, "JPEG", quality=100)
    jpeg = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + whole[2:]
    whole = encoded(SMOOTH)
    png = whole[:33] + chunk(b"eXIf", exif) + whole[33:]
    late = whole[:-12] + chunk(b"eXIf", exif) + whole[-12:]
    with_text = whole[:33] + chunk(b"zTXt", b"w\0\0" + zlib.compress(b"x" * (2 << 20))) + chunk(b"eXIf", exif)
    for data in (jpeg, png, late, with_text + whole[33:]):
        image = open_image(data)
        assert image.size == image_size(data) == (64, 48)
        assert np.abs(np.asarray(image, int) - expected).max() <= 3


def test_no_warning_of_a_library_reaches_the_caller():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (encoded(Image.new("1", (9460, 9460)), "PNG"), *ODD_METADATA.values()):
            for function in (open_image, image_size):
                try:
                    function(data)
                except ImageError as error:
                    assert f"is more than {MAX_PIXELS:,} pixels" in error.message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_size_is_that_of_the_opened_image(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PICTURE, kind, exif=exif)
    assert image_size(data) == open_image(data).size == ((12, 16) if orientation >= 5 else (16, 12))
    given = Image.open(io.BytesIO(data))
    assert image_size(given) == open_image(given).size == open_image(data).size


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(Image.new("L", (9460, 9460)), "JPEG", quality=1), "is too large: 9460 x 9460 is more than"),
        (encoded(PICTURE, "GIF", save_all=True, append_images=[SMOOTH.resize((16, 12))]), "animation"),
        (encoded(PICTURE, "TIFF", save_all=True, append_images=[SMOOTH]), "several pages (2)"),
        ("nowhere.png", "'nowhere.png' not found"),
        (b"text", "is not an image that can be read"),
    ],
    ids=["large", "animation", "pages", "missing", "text"],
)
def test_a_size_is_refused_where_opening_is(data, reason):
    for function in (image_size, open_image):
        with pytest.raises(ImageError) as raised:
            function(data, "source")
        assert reason in raised.value.message and raised.value.message.startswith("source image")


def test_texts_that_are_images():
    data = encoded(PICTURE)
    coded = base64.b64encode(data).decode()
    lines = "\n".join(coded[place : place + 76] for place in range(0, len(coded), 76))
    percent = "data:image/png," + "".join(f"%{byte:02x}" for byte in data)
    for text in (coded, coded.rstrip("="), lines, f"data:image/png;base64,{coded}", f"DATA:;BASE64,{coded}", percent):
        assert (np.asarray(open_image(text)) == PIXELS).all()
        assert image_size(text) == (16, 12)
    for kind in ("JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        assert open_image(base64.b64encode(encoded(PICTURE, kind)).decode()).size == (16, 12)


def test_a_path_is_not_taken_for_base64(tmp_path):
    folder = tmp_path / "iVBORw0KGgoAAAANSUhEUgAAAKAAAAB4CAIAAADabcdefgh"
    folder.mkdir()
    PICTURE.save(folder / "Qk.png")
    assert open_image(str(folder / "Qk.png")).size == (16, 12)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://example.org/b.png", "is an address; addresses are not fetched: download it and give the file"),
        ("s3://bucket/b.png", "is an address"),
        ("data:image/png;base64", "a data URL without data"),
        ("data:image/png;base64," + "?" * 5000, "a data URL whose base64 cannot be decoded"),
        ("data:image/png;base64," + "QUJD" * 5000, "is not an image that can be read"),
        ("data:image/png;base64," + base64.b64encode(encoded(SMOOTH)[:80]).decode() * 20, "cannot be decoded"),
        ("QUJD" * 50_000, "cannot be opened: File name too long"),
        ("folder/" * 60 + "a.png", "not found"),
        ("a\0b.png", "cannot be opened: "),
    ],
)
def test_a_reason_is_short_whatever_the_text(text, reason):
    for function in (open_image, image_size):
        with pytest.raises(ImageError) as raised:
            function(text, "edited")
        assert reason in raised.value.message and len(raised.value.message) < 500
