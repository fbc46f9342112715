"""Arrays as images: which shapes and values there are, and what is refused in words."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from mmreward import Edit, ImageError
from mmreward.edit import image_size, open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]
CLEAR = np.dstack([PIXELS, np.full((12, 16), 51, np.uint8)])
ON_WHITE = np.rint(255 - (255 - PIXELS.astype(float)) * 51 / 255)


def channels_first(array):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0)))


def test_every_documented_shape_gives_the_same_picture():
    unit = PIXELS / 255
    for array in (
        PIXELS, unit, unit.astype(np.float32), np.asfortranarray(PIXELS), channels_first(PIXELS), channels_first(unit),
        channels_first(unit).float().requires_grad_(), channels_first(unit).bfloat16().float(), PIXELS[::1],
    ):  # fmt: skip
        image = open_image(array)
        assert image.mode == "RGB" and np.abs(np.asarray(image, int) - PIXELS).max() <= (0 if array is PIXELS else 1)
        assert image_size(array) == (16, 12)
    for array in (
        GREY,
        GREY[..., None],
        GREY / 255,
        torch.from_numpy(GREY.copy()),
        torch.from_numpy(GREY.copy())[None],
    ):
        assert (np.asarray(open_image(array)) == GREY[..., None]).all()
        assert (np.asarray(open_image(array, "mask")) == GREY).all()
    for array in (CLEAR, channels_first(CLEAR)):
        assert np.abs(np.asarray(open_image(array), float) - ON_WHITE).max() <= 1
    assert (np.asarray(open_image(GREY > 127, "mask")) == np.where(GREY > 127, 255, 0)).all()


def test_floating_point_numbers_are_rounded_to_the_nearest_level():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for dtype in (np.float16, np.float32, np.float64):
        assert (np.asarray(open_image((levels / 255).astype(dtype), "mask")) == levels).all()
    assert open_image(np.full((2, 2), 0.5 + 1e-9), "mask").getpixel((0, 0)) == 128  # 127.5
    assert open_image(np.full((2, 2), 1 + 1e-7), "mask").getpixel((0, 0)) == 255  # resized in float32


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (channels_first(PIXELS).numpy(), r"shape \[3, 12, 16\]; a numpy image is .* turn it by .transpose\(1, 2, 0\)"),
        (torch.from_numpy(PIXELS), r"shape \[12, 16, 3\]; a torch image .* turn it by .permute\(2, 0, 1\)"),
        (PIXELS[None], "give one image of the batch"),
        (np.zeros(5, np.uint8), r"shape \[5\]"),
        (np.zeros((3, 9, 3), np.uint8), "first and last axis may both be the colours"),
        (torch.zeros(3, 9, 3), "first and last axis may both be the colours"),
        (np.zeros((0, 4, 3), np.uint8), "is empty"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \[4, 4, 2\]"),
        (np.full((4, 4, 3), np.nan), "values from nan to nan"),
        (np.where(GREY == GREY[0, 0], np.inf, 0.5), "values from 0.5 to inf"),
        (PIXELS.astype(np.float32), r"values from 0 to 255; they must lie in \[0, 1\]; divide by 255"),
        (np.full((4, 4, 3), -0.5), "values from -0.5 to -0.5"),
        (torch.full((3, 4, 4), 1.01), "values from 1.01 to 1.01"),
        (PIXELS.astype(np.int64), "an array of int64; give uint8"),
        (PIXELS.astype(np.uint16), "an array of uint16"),
    ],
)  # fmt: skip
def test_what_could_be_misread_is_refused(array, reason):
    with pytest.raises(ImageError, match=reason) as raised:
        Edit("x", array, PIXELS).image("source")
    assert raised.value.status == "io_error"


def test_an_array_is_the_same_edit_as_its_image():
    array, image = Edit("x", PIXELS, GREY), Edit("x", open_image(PIXELS), open_image(GREY))
    assert (array.group, array.key) == (image.group, image.key)


def test_inputs_are_a_list_of_images():
    edit = Edit("x", PIXELS, PIXELS, inputs=[GREY, PIXELS])
    assert [image.size for image in edit.input_images()] == [(16, 12)] * 2
    for single in (PIXELS, channels_first(PIXELS), open_image(PIXELS), "a.png", b"x"):
        with pytest.raises(TypeError, match="must be a list of images"):
            Edit("x", PIXELS, PIXELS, inputs=single)


def test_arrays_of_numpy_import_no_torch():
    program = (
        "import sys, numpy as np; from mmreward import Edit; "
        "Edit('x', np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3))).key; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
