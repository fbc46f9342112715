"""Editors with scores and feedback as conditions: equal to the start at first, guided as written, saved whole."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image

from editing.editors import load_editor
from editing.editors.conditioned import conditioned, conditioned_form
from editing.editors.conditioned_scores import Conditioner
from editing.editors.instruct_pix2pix import InstructPix2PixEditor
from mmreward.training import CheckpointError

NAMES = ("instruction_following", "preservation", "quality")


def _source(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def unet_editor(ip2p_pipeline):
    """A random InstructPix2Pix with two-way guidance."""
    return InstructPix2PixEditor(ip2p_pipeline("sd"), "random", guidance=3.0, max_area=64 * 64, steps=4)


@pytest.fixture(scope="module")
def xl_editor(ip2p_pipeline):
    """The same of SDXL, which predicts v."""
    return InstructPix2PixEditor(ip2p_pipeline("xl-v"), "random", guidance=3.0, max_area=64 * 64, steps=4)


@pytest.fixture(params=["random_editor", "unet_editor", "xl_editor"])
def start(request):
    """One of each family."""
    return request.getfixturevalue(request.param)


def _asked(editor, **options):
    torch.manual_seed(1)
    return conditioned(editor, scores=NAMES, **options)


def _disturbed(editor):
    """With every parameter that training will move off zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in editor.conditioner.projections():
            layer.weight.normal_(std=0.1, generator=generator)
    return editor


def _given(editor):
    condition = editor.collate(editor.encode([_source(0), _source(1)], ["make the circle blue", "remove the square"]))
    x = torch.stack([editor.prior("g", member, condition.latent_shape) for member in range(2)])
    return x, condition


def _alike(prediction, other):
    """Of two networks with equal weights: at other addresses in memory they may be rounded differently."""
    return torch.allclose(prediction, other, atol=1e-5)


def test_starts_as_the_editor_it_was(start):
    editor = _asked(start, score_guidance=2.0)
    x, condition = _given(editor)
    feedback = torch.randn_like(condition.tensors["text"])
    scores = torch.tensor([[0.1, torch.nan, 1.0], [0.5, 0.5, 0.5]])
    with torch.no_grad():
        before = start.predict(x, 0.7, condition)
        assert all(map(_alike, editor.predict(x, 0.7, condition), before))
        given = editor.predict_given(x, 0.7, editor.given(condition, scores, feedback))
    assert all(map(_alike, given, before))


def test_guidance_leads_from_low_to_asked(start):
    editor = _disturbed(_asked(start, asked={"quality": 0.6}, low=0.2, score_guidance=2.5))
    x, condition = _given(editor)
    t = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        rows = ([1.0, 1.0, 0.6], [0.2, 0.2, 0.2])
        high, low = (editor.predict_given(x, t, editor.given(condition, torch.tensor([row] * 2))) for row in rows)
        guided = editor.predict(x, t, condition)
        editor.score_guidance = 1.0
        alone = editor.predict(x, t, condition)
    assert not torch.allclose(high.x0, low.x0, atol=1e-3)
    for name in ("x0", "eps"):
        a, b = getattr(low, name), getattr(high, name)
        assert torch.allclose(getattr(guided, name), -1.5 * a + 2.5 * b, atol=1e-4)
        assert torch.equal(getattr(alone, name), b)
    level = t.view(-1, 1, 1)
    assert torch.allclose((1 - level) * guided.x0 + level * guided.eps, x, atol=1e-3)


def test_every_new_parameter_gets_a_gradient(start):
    editor = _disturbed(_asked(start))
    x, condition = _given(editor)
    scores = torch.tensor([[0.1, torch.nan, 1.0], [0.9, 0.3, torch.nan]])
    given = editor.given(condition, scores, torch.randn_like(condition.tensors["text"]))
    editor.predict_given(x, 0.5, given).x0.square().sum().backward()
    for name, parameter in editor.conditioner.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    # In the table: exactly the vectors that the scores lie between, and those of scores that are not said.
    used = editor.conditioner.table.grad.abs().sum(-1) > 0
    assert used.nonzero().tolist() == [[0, 0], [0, 1], [0, 4], [0, 5], [1, 1], [1, 2], [1, 6], [2, 5], [2, 6]]


def test_zero_projections_learn_from_the_first_step(start):
    editor = _asked(start)
    x, condition = _given(editor)
    given = editor.given(condition, torch.full((2, 3), 0.5), torch.randn_like(condition.tensors["text"]))
    editor.predict_given(x, 0.5, given).x0.square().sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in editor.conditioner.projections())


def test_scores_reach_the_modulation_of_a_network_that_has_one(start):
    editor = _disturbed(_asked(start))
    _, condition = _given(editor)
    given = editor.given(condition, torch.full((2, 3), 0.5))
    assert ("pooled" in condition.tensors) == (editor.conditioner.to_pooled is not None)
    for name in {"pooled", "no_pooled"} & set(condition.tensors):
        assert not torch.equal(given.tensors[name], condition.tensors[name])


def test_scores_between_levels_mix_two_vectors():
    shares = Conditioner(("a",), 6, 4, 8).shares(torch.tensor([[0.83], [0.0], [1.0], [torch.nan]]))[:, 0]
    assert torch.allclose(shares[0], torch.tensor([0, 0, 0, 0, 0.85, 0.15, 0]), atol=1e-5)
    assert shares[1:].argmax(-1).tolist() == [0, 5, 6] and torch.allclose(shares.sum(-1), torch.ones(4))


def test_guidance_by_the_instruction_is_about_the_instruction(unet_editor):
    editor = _disturbed(_asked(unet_editor))
    _, condition = _given(editor)
    given = editor.given(condition, torch.full((2, 3), 0.5))
    added = [given.tensors[name] - condition.tensors[name] for name in ("text", "no_text")]
    assert torch.allclose(*added, atol=1e-5) and added[0][:, -3:].abs().sum() > 0
    assert added[0][:, :-3].abs().sum() == 0


def test_saved_and_loaded_predicts_the_same(start, tmp_path):
    editor = _disturbed(_asked(start, asked=0.9, low={"quality": 0.1}, score_guidance=1.25))
    editor.save(tmp_path / "model")
    loaded = load_editor(str(tmp_path / "model"))
    x, condition = _given(loaded)
    with torch.no_grad():
        predicted = [one.predict(x, 0.5, condition) for one in (editor, loaded)]
    for one, other in ((editor.module, loaded.module), (editor.conditioner, loaded.conditioner)):
        weights = other.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in one.state_dict().items())
    assert all(map(_alike, *predicted))
    assert type(loaded) is conditioned_form(type(start)) and loaded.low == {**dict.fromkeys(NAMES, 0.0), "quality": 0.1}
    assert not list(tmp_path.glob("*.whole")) and json.loads((tmp_path / "model" / "mmreward.json").read_text())
    wished = load_editor(f"{tmp_path / 'model'}?asked=quality:0.5,preservation:0.2&score_guidance=1&steps=3")
    assert wished.asked == {"instruction_following": 1.0, "preservation": 0.2, "quality": 0.5}
    assert wished.score_guidance == 1 and wished.default_steps == 3 and wished.guidance == editor.guidance


def test_what_cannot_be_asked_for_is_refused(random_editor, tmp_path):
    with pytest.raises(ValueError, match="unknown score 'qualty'. Did you mean 'quality'"):
        _asked(random_editor, asked={"qualty": 0.5})
    with pytest.raises(ValueError, match=r"should be in \[0, 1\], got 5"):
        _asked(random_editor, asked=5)
    with pytest.raises(ValueError, match="QwenImageEditEditor has no form that is conditioned"):
        from editing.editors.qwen_image_edit import QwenImageEditEditor

        conditioned_form(QwenImageEditEditor)
    editor = _asked(random_editor)
    editor.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match="checkpoint of another model: table has shape"):
        load_editor(f"{tmp_path / 'model'}", levels=4)
    start = copy.copy(random_editor)
    start.save(tmp_path / "plain")
    with pytest.raises(ValueError, match="unknown option of KontextEditor 'asked'"):
        load_editor(f"{tmp_path / 'plain'}?asked=1")
