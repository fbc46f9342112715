"""Colour profiles: values against the definitions of the colour spaces; and what must not change a byte."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from mmreward.edit import open_image

# Profiles are made by hand, by https://www.color.org/specification/ICC.1-2001-04.pdf; primaries are adapted to D50.
D50 = (0.9642, 1.0, 0.8249)
SRGB_TO_XYZ = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
ADOBE_TO_XYZ = np.array([[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]])
P3_TO_XYZ = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
"""Colorants of the published profiles, adapted to D50."""


def encode_srgb(linear):
    """IEC 61966-2-1."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def decode_srgb(value):
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _fixed(*values):
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _xyz(values):
    return b"XYZ \0\0\0\0" + _fixed(*values)


def curve(function, steps=1024):
    table = [round(65535 * float(function(step / (steps - 1)))) for step in range(steps)]
    return b"curv\0\0\0\0" + struct.pack(f">I{steps}H", steps, *table)


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"mine\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0mine\0", b"wtpt": _xyz(D50), **tags}
    table, data, place = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(data), len(content))
        data += content
    head = struct.pack(">I4sI4s4s4s", place + len(data), b"lcms", 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*D50)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + data


def matrix_profile(to_xyz, decode) -> bytes:
    tags = {name: _xyz(to_xyz[:, place]) for place, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(decode)))


def grey_profile(decode) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve(decode)})


def cmyk_profile(lab_of) -> bytes:
    """`lab_of(c, m, y, k)` is the colour of full or no ink of each kind; linear between them."""
    corners = [lab_of(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    grid = bytes(v for light, a, b in corners for v in (round(light * 2.55), round(a) + 128, round(b) + 128))
    identity = bytes(range(256))
    unit = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + unit + identity * 4 + grid + identity * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut, b"A2B1": lut})


NOISE = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
INSIDE = np.random.default_rng(1).integers(90, 170, (40, 30, 3), dtype=np.uint8)
"""Colours that every RGB space here can show."""


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def opened(pixels, profile, kind="PNG", **options):
    return np.asarray(open_image(encoded(Image.fromarray(pixels), kind, icc_profile=profile, **options)), int)


def gamma(power):
    return lambda value: value**power


@pytest.mark.parametrize(
    ("to_xyz", "decode"), [(P3_TO_XYZ, decode_srgb), (ADOBE_TO_XYZ, gamma(2.19921875))], ids=["Display P3", "Adobe RGB"]
)
def test_wide_colours_become_srgb(to_xyz, decode):
    linear = decode(INSIDE / 255.0) @ to_xyz.T @ np.linalg.inv(SRGB_TO_XYZ).T
    expected = 255 * encode_srgb(linear)
    result = opened(INSIDE, matrix_profile(to_xyz, decode))
    assert np.abs(result - expected).max() <= 1.5
    assert np.abs(result - INSIDE.astype(int)).max() > 10  # the profile says something


def test_grey_with_a_profile():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = 255 * encode_srgb((ramp / 255.0) ** 1.8)
    result = opened(ramp, grey_profile(gamma(1.8)))
    assert np.abs(result - expected[..., None]).max() <= 1.5


def test_cmyk_by_its_profile():
    inks = {(1, 0, 0, 0): (62, -31, -48), (0, 1, 0, 0): (48, 74, -3), (0, 0, 0, 0): (100, 0, 0)}
    profile = cmyk_profile(lambda *amounts: inks.get(amounts, (0, 0, 0)))
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    light, a, b = inks[1, 0, 0, 0]
    fy = (light + 16) / 116
    f = np.array([fy + a / 500, fy, fy - b / 200])
    xyz = np.array([0.9642, 1, 0.8249]) * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    expected = 255 * encode_srgb(np.linalg.inv(SRGB_TO_XYZ) @ xyz)
    (result,) = {open_image(encoded(image, "TIFF", icc_profile=profile)).getpixel((3, 3))}
    assert np.abs(np.array(result) - expected).max() <= 3  # eight bits of Lab
    assert open_image(encoded(image, "TIFF")).getpixel((3, 3)) == (0, 255, 255)  # without: the plain conversion


@pytest.mark.parametrize(
    "profile",
    [
        None,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        matrix_profile(SRGB_TO_XYZ, decode_srgb),
        b"this is no profile",
        matrix_profile(P3_TO_XYZ, decode_srgb)[:200],
        grey_profile(gamma(1.8)),
        cmyk_profile(lambda *amounts: (50, 0, 0)),
    ],
    ids=["none", "sRGB", "sRGB of another maker", "broken", "cut off", "of grey pixels", "of CMYK pixels"],
)
def test_srgb_and_profiles_that_do_not_apply_change_no_byte(profile):
    assert (opened(NOISE, profile) == NOISE).all()


def test_transparency_and_turning_go_with_a_profile():
    profile = matrix_profile(ADOBE_TO_XYZ, gamma(2.19921875))
    plain = opened(INSIDE, profile)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert (opened(INSIDE, profile, exif=exif) == np.rot90(plain, -1)).all()
    clear = np.dstack([INSIDE, np.where(np.arange(30) < 15, 255, 0).astype(np.uint8) * np.ones((40, 1), np.uint8)])
    result = opened(clear, profile)
    assert (result[:, :15] == plain[:, :15]).all() and (result[:, 15:] == 255).all()


def test_an_opened_image_is_not_converted_again():
    profile = matrix_profile(ADOBE_TO_XYZ, gamma(2.19921875))
    first = open_image(encoded(Image.fromarray(INSIDE), icc_profile=profile))
    from_file = open_image(Image.open(io.BytesIO(encoded(Image.fromarray(INSIDE), icc_profile=profile))))
    assert open_image(first) is first and from_file.tobytes() == first.tobytes()
    assert open_image(from_file).tobytes() == first.tobytes()


def test_a_mask_has_no_colours():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    mask = open_image(encoded(Image.fromarray(ramp), icc_profile=grey_profile(gamma(1.8))), "mask")
    assert (np.asarray(mask) == ramp).all()
