"""The pixel budget of an image: set, told, or refused."""

import pytest
from PIL import Image

from mmreward.judge.backends.folder import find_model
from mmreward.judge.backends.transformers import TransformersBackend
from mmreward.judge.prompt import Fixed, Prompt


def test_the_budget_of_the_folder_is_told():
    assert TransformersBackend.load(find_model("tiny")).describe["pixels"] == {"min": 4356, "max": 4356}


def test_a_budget_that_is_asked_for_decides_how_many_tokens_an_image_has():
    backend = TransformersBackend.load(find_model("tiny"), pixels=22 * 22 * 8, min_pixels=22 * 22 * 4)
    assert backend.describe["pixels"] == {"min": 1936, "max": 3872}
    small, large = Image.new("RGB", (4, 4)), Image.new("RGB", (400, 400))
    seen = backend.shared.vision.look([small, large])
    assert [len(seen[id(image)].prepared.ids) for image in (small, large)] == [4, 4]
    assert len(backend.probabilities([Prompt((large, Fixed("following")))], "01")[0]) == 1
    assert TransformersBackend.load(find_model("tiny"), pixels=2000).describe["pixels"] == {"min": 2000, "max": 2000}


@pytest.mark.parametrize("options", [{"pixels": 100}, {"pixels": 2000, "min_pixels": 3000}])
def test_a_budget_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="options pixels and min_pixels"):
        TransformersBackend.load(find_model("tiny"), **options)
