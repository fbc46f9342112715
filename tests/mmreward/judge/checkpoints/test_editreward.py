"""EditReward against its published computation, in both layouts of its weights."""

import copy
import math

import pytest
import torch
import yaml
from safetensors.torch import save_file

from mmreward import load_reward
from mmreward.edit import Edit

WORDS = {
    "INSTRUCTION_EDIT_FOLLOWING": "\nrate the edit: {text_prompt}\n",
    "INSTRUCTION_EDIT_QUALITY": "\nrate the picture, not {text_prompt}\n",
    "prompt_with_special_token": "\nthe rating: <|Reward|>\n\nEND\n",
}


@pytest.fixture(scope="module")
def made(base, reference, tmp_path_factory):
    """(model, processor, heads, base folder, checkpoint folder, prompt file)."""
    model, processor, folder = base("qwen2_5_vl")
    model, processor = copy.deepcopy(model), copy.deepcopy(processor)
    reference.extended(model, processor)
    heads = [reference.new_head(), reference.new_head()]
    place = tmp_path_factory.mktemp("editreward")
    save_file(state(model, heads), place / "model.safetensors")
    prompt = place / "words.yaml"
    prompt.write_text(yaml.safe_dump(WORDS))
    return model, processor, heads, folder, place, prompt


def state(model, heads, old=False):
    """Tensors of a checkpoint, in the layout since transformers 4.52 or in the one before."""
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if old:
        tensors = {
            n.replace("model.visual.", "visual.").replace("model.language_model.", "model."): t
            for n, t in tensors.items()
        }
    for i, head in enumerate(heads):
        tensors |= {f"rm_heads.head_{i}.{name}": tensor.clone() for name, tensor in head.state_dict().items()}
    return tensors


def spec(made, **options):
    return f"editreward:{made[4]}?" + "&".join(
        f"{k}={v}" for k, v in {"base": made[3], "prompt": made[5], **options}.items()
    )


@pytest.fixture(scope="module")
def reward(made):
    return load_reward(spec(made))


def expected(made, edit, reference):
    """((mu, log sigma) of both heads) by the published computation."""
    model, processor, heads, *_ = made
    found = []
    for head, name in zip(heads, list(WORDS)[:2]):
        text = WORDS[name].format(text_prompt=edit.instruction) + WORDS["prompt_with_special_token"]
        found.append(reference.read(model, processor, head, [edit.image("source"), edit.image("edited")], text))
    return found


def test_both_heads_are_those_of_the_published_computation(made, reward, edits, reference):
    for edit, score in zip(edits[:2], reward.score(edits[:2])):
        (mu0, log0), (mu1, log1) = expected(made, edit, reference)
        assert score.ok, score.error
        assert score.raw["instruction_following_mu"] == pytest.approx(mu0, abs=1e-5)
        assert score.raw["quality_mu"] == pytest.approx(mu1, abs=1e-5)
        assert score.raw["quality_sigma"] == pytest.approx(math.exp(log1), abs=1e-5)
        assert score.raw["mu"] == pytest.approx((mu0 + mu1) / 2, abs=1e-5)
        assert score.raw["sigma"] == pytest.approx(math.exp((log0 + log1) / 2), abs=1e-5)
        overall = 1 / (1 + math.exp(-(mu0 + mu1) / 2))
        assert score.overall == pytest.approx(overall, abs=1e-6)
        assert score.spread.kind == "head"
        assert score.spread.value == pytest.approx(overall * (1 - overall) * score.raw["sigma"], abs=1e-6)


def test_blanks_at_the_ends_of_an_instruction_are_given_as_they_are(made, reward, edits, reference):
    edit = Edit("  make the circle blue \n", edits[0].source, edits[0].edited)
    (mu0, _), (mu1, _) = expected(made, edit, reference)
    score, stripped = reward.score([edit, edits[0]])
    assert score.raw["mu"] == pytest.approx((mu0 + mu1) / 2, abs=1e-5)
    assert abs(score.raw["mu"] - stripped.raw["mu"]) > 1e-4


def test_a_batch_that_raises_costs_only_the_row_that_raised(reward, edits, monkeypatch):
    """Whatever the row: here the model runs out of memory for one text."""
    whole, read = reward.score(edits), type(reward.model).read

    def read_or_raise(self, head, rows, pictures=None):
        if any("expensive" in piece.text for row in rows for piece in row if hasattr(piece, "text")):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return read(self, head, rows, pictures)

    monkeypatch.setattr(type(reward.model), "read", read_or_raise)
    costly = Edit("an expensive edit", edits[0].source, edits[0].edited)
    first, failed, second, third = reward.score([edits[0], costly, *edits[1:]])
    assert failed.status == "error" and failed.error.startswith("OutOfMemoryError: CUDA out of memory")
    assert [s.raw["mu"] for s in (first, second, third)] == pytest.approx([s.raw["mu"] for s in whole], abs=1e-5)


def test_the_old_layout_gives_the_same(made, reward, edits, tmp_path):
    save_file(state(made[0], made[2], old=True), tmp_path / "model.safetensors")
    old = load_reward(f"editreward:{tmp_path / 'model.safetensors'}?base={made[3]}&prompt={made[5]}")
    assert old.score(edits[:1])[0].raw == pytest.approx(reward.score(edits[:1])[0].raw, abs=1e-5)


def test_one_edit_and_many_agree(reward, edits):
    together = reward.score(edits)
    for edit, score in zip(edits, together):
        assert reward.score([edit])[0].raw["mu"] == pytest.approx(score.raw["mu"], abs=1e-5)


@pytest.mark.parametrize(("pool", "mu", "sigma"), [("min", min, min), ("sum", lambda a, b: a + b, math.hypot)])
def test_pools(made, edits, pool, mu, sigma):
    (score,) = load_reward(spec(made, pool=pool)).score(edits[:1])
    raw = score.raw
    assert raw["mu"] == mu(raw["instruction_following_mu"], raw["quality_mu"])
    assert raw["sigma"] == pytest.approx(sigma(raw["instruction_following_sigma"], raw["quality_sigma"]))


def test_words_of_ones_own_do_not_get_the_published_name(reward, edits):
    assert reward.name.startswith("own prompt on the weights of editreward:")
    (score,) = reward.score(edits[:1])
    assert score.provenance["question"].startswith("prompt given by user, words.yaml")
    assert score.provenance["positions"] == "sequential" and score.provenance["pixels"] == 448 * 448


def test_bad_rows_are_statuses(reward, edits):
    bad = [
        Edit("", edits[0].source, edits[0].edited),
        Edit("make it blue", "gone.png", edits[0].edited),
        Edit("make it blue", edits[0].source, edits[0].image("edited").resize((2, 900))),
        Edit("very " * 5000, edits[0].source, edits[0].edited),
    ]
    scores = reward.score([*bad, edits[0]])
    assert [one.status for one in scores] == ["not_applicable", "io_error", "not_applicable", "not_applicable", "ok"]
    assert "200" in scores[2].error and "tokens" in scores[3].error
    assert reward.score([Edit("half a pair \ud83d", edits[0].source, edits[0].edited)])[0].ok


def test_output_that_is_not_finite_is_a_failure(made, edits, tmp_path):
    tensors = state(made[0], made[2])
    tensors["rm_heads.head_1.5.bias"][0] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors")
    (score,) = load_reward(f"editreward:{tmp_path}?base={made[3]}&prompt={made[5]}").score(edits[:1])
    assert score.status == "parse_error" and score.error.startswith("quality: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("rm_heads.head_1.5.bias"), r"missing: rm_heads.head_1.5.bias"),
        (lambda t: t.pop("model.visual.blocks.0.mlp.up_proj.weight"), r"missing: visual.blocks.0.mlp.up_proj.weight"),
        (lambda t: t.update({"rm_heads.head_2.0.bias": torch.zeros(1)}), r"unexpected: rm_heads.head_2.0.bias"),
        (lambda t: t.update({"model.extra.weight": torch.zeros(1)}), r"unexpected: language_model.extra.weight"),
        (lambda t: t.update({"rm_heads.head_0.0.bias": torch.zeros(3)}), r"another shape: rm_heads.head_0.0.bias"),
        (lambda t: t.update({"model.language_model.norm.weight": torch.zeros(3)}), r"another shape: .*norm.weight"),
        (lambda t: t.update({"model.language_model.embed_tokens.weight": torch.zeros(3, 32)}), r"know 3 tokens"),
    ],
)
def test_weights_load_strictly(made, tmp_path, change, message):
    tensors = state(made[0], made[2])
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_reward(f"editreward:{tmp_path}?base={made[3]}&prompt={made[5]}")


def test_wrong_calls_say_what_to_do(made, base, tmp_path):
    with pytest.raises(ValueError, match="github.com/TIGER-AI-Lab/EditReward"):
        load_reward(f"editreward:{made[4]}?base={made[3]}")
    with pytest.raises(ValueError, match="need .base="):
        load_reward(f"editreward:{made[4]}?prompt={made[5]}")
    with pytest.raises(ValueError, match="qwen2_vl, expected qwen2_5_vl"):
        load_reward(f"editreward:{made[4]}?base={base('qwen2_vl')[2]}&prompt={made[5]}")
    with pytest.raises(ValueError, match="pool"):
        load_reward(spec(made, pool="median"))
    (tmp_path / "model.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="pickle weights only"):
        load_reward(f"editreward:{tmp_path}?base={made[3]}&prompt={made[5]}")
