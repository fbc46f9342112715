"""A random judge of the tiny judge's architecture, smaller still."""

import pytest
import torch
from PIL import Image

from mmreward.fit.judge_model import ModelConfig, new_model, new_processor, new_tokenizer
from mmreward.judge.backends.transformers import TransformersBackend
from mmreward.judge.question import load_questions
from mmreward.shapes import World

SMALL = ModelConfig(hidden=64, layers=3, mlp=64, vision_width=32, vision_layers=1, vision_mlp=32, vocabulary=400)


@pytest.fixture(scope="session")
def small():
    """(model, processor) with weights large enough that answers differ."""
    tokenizer = new_tokenizer(["make the red circle blue"] * 5, SMALL.vocabulary)
    model = new_model(SMALL, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model, new_processor(tokenizer)


@pytest.fixture(scope="session")
def backend(small):
    return TransformersBackend(*small)


@pytest.fixture(scope="session")
def groups():
    """(instruction, source image, three edited images) of four tasks."""
    world = World("validation", seed=3)
    return [
        (task.instruction, _image(task.source_image), [_image(c.image) for c in world.candidates(task, 3)])
        for task in world.tasks(4)
    ]


@pytest.fixture(scope="session")
def prompts(groups):
    questions = load_questions("shapes-1")
    return [questions.prompt(*group) for group in groups]


def _image(pixels):
    return Image.fromarray(pixels)
