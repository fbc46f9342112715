"""A small random editor, made once for all tests of editing."""

import copy

import pytest
import torch

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
