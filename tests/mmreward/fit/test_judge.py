"""The recipe of the tiny judge: the training forward is the model's own, labels are exact, a run resumes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmreward.fit.judge import JudgeRecipe, run
from mmreward.fit.judge_asks import Ask, compared, frame_of, soft_digits, true_answers
from mmreward.fit.judge_check import order, spearman
from mmreward.fit.judge_data import Batches, neighbours, patches, place_residuals, smeared_groups, world_group
from mmreward.fit.judge_extra import read_outputs
from mmreward.fit.judge_model import ModelConfig, new_model, new_processor, new_tokenizer
from mmreward.fit.judge_train import JudgeTrainer
from mmreward.judge.backends.transformers import TransformersBackend
from mmreward.judge.question import load_questions, load_wording
from mmreward.judge.way import Group
from mmreward.judge.ways.checklist import ChecklistSet
from mmreward.judge.ways.pairwise import PairSet
from mmreward.shapes import World, read, truth
from mmreward.training import ConfigError

SMALL = {
    "hidden": 64,
    "layers": 4,
    "mlp": 64,
    "vision_width": 32,
    "vision_layers": 2,
    "vision_mlp": 32,
    "vocabulary": 400,
}
RECIPE = {
    "model": SMALL,
    "groups": 2,
    "candidates": 2,
    "text_length": 90,
    "look_steps": 2,
    "look_groups": 2,
    "check_groups": 2,
    "check_minutes": 1e-6,
    "compiled": False,
    "loop": {"steps": 4, "lr": 1e-3, "optimizer": "muon", "warmup": 1, "log_every": 1, "autocast": "no"},
}


@pytest.fixture(scope="module")
def parts():
    tokenizer = new_tokenizer(["make the red circle blue"] * 5, 400)
    processor = new_processor(tokenizer)
    model = new_model(ModelConfig(**SMALL), tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    questions = load_questions("shapes-1")
    frame = frame_of(processor, questions, "checklist-shapes-1", "pairwise-shapes-1")
    batches = Batches(
        World("train", 1), tokenizer, processor.image_processor, frame, groups=3, candidates=4, text_length=90
    )
    return model, processor, questions, frame, batches


def test_the_training_forward_is_the_model_s_own(parts):
    model, processor, questions, frame, batches = parts
    trainer = JudgeTrainer(model, frame, dense_steps=10)
    found = trainer.scores(batches.at(0)).numpy()
    groups = [world_group(batches.world, i, 4) for i in range(3)]
    image = Image.fromarray
    prompts = [questions.prompt(g.instruction, image(g.source_image), [image(i) for i in g.images]) for g in groups]
    told = TransformersBackend(model, processor, layout="plain").probabilities(prompts, questions.labels)
    answers = np.asarray([[answer.probabilities for answer in row] for row in told])
    expected = (answers / answers.sum(-1, keepdims=True)) @ np.linspace(0, 1, 6)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(found.reshape(3, -1), expected, atol=1e-4)


def test_checks_and_comparisons_are_the_model_s_own(parts):
    model, processor, _, frame, batches = parts
    groups = [world_group(batches.world, i, 4) for i in range(3)]
    pairs = neighbours(3, 4, np.random.default_rng(0))
    singles, doubles = JudgeTrainer(model, frame, dense_steps=10).answers(batches.batch(groups, pairs=pairs))
    backend = TransformersBackend(model, processor, layout="plain")
    image = Image.fromarray
    asked = [Group(g.instruction, image(g.source_image), tuple(image(i) for i in g.images)) for g in groups]

    checks = load_wording(ChecklistSet, "checklist", "checklist-shapes-1")
    told = backend.probabilities([checks.prompt(group, checks.checks) for group in asked], checks.labels)
    found = torch.stack(singles[frame.scores :], 2).reshape(3, -1, 2).numpy()
    np.testing.assert_allclose(found, shares(told), atol=1e-4)

    versus = load_wording(PairSet, "pairwise", "pairwise-shapes-1")
    names = list(versus.questions)
    orders = [sorted(map(tuple, row.tolist())) for row in pairs]
    told = backend.probabilities(
        [versus.prompt(group, own, names, "", "probability") for group, own in zip(asked, orders, strict=True)],
        versus.labels,
    )
    found = torch.stack(doubles, 2).numpy()  # [G, M, Q, 2]
    place = [
        [list(map(tuple, row.tolist())).index(pair) for pair in own] for row, own in zip(pairs, orders, strict=True)
    ]
    found = np.stack([row[own] for row, own in zip(found, place, strict=True)]).reshape(3, -1, 2)
    assert np.ptp(found) > 1e-3
    np.testing.assert_allclose(found, shares(told), atol=1e-4)


def shares(told):
    answers = np.asarray([[answer.probabilities for answer in row] for row in told])
    return answers / answers.sum(-1, keepdims=True)


def test_patches_are_the_processor_s(parts):
    _, processor, *_ = parts
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    theirs = processor.image_processor(images=[Image.fromarray(image) for image in pixels], return_tensors="pt")
    theirs = theirs["pixel_values"].view(3, 36, 3, 2, 121)
    ours = patches(pixels, processor.image_processor.image_mean, processor.image_processor.image_std)
    for frame in (0, 1):
        torch.testing.assert_close(ours, theirs[:, :, :, frame].flatten(2), atol=1e-5, rtol=0)


def test_soft_digits_have_the_label_as_expectation():
    labels = torch.linspace(0, 1, 23)
    found = soft_digits(labels, 6)
    torch.testing.assert_close(found @ torch.linspace(0, 1, 6), labels)
    torch.testing.assert_close(found.sum(-1), torch.ones(23))
    assert ((found > 0).sum(-1) <= 2).all()


def test_the_oracle_s_answers_to_checks_and_comparisons():
    labels = torch.tensor([[1.0, 0.9, 0.5], [0.5, 1.0, 1.0]])
    kept = Ask((1,), (2, 3), "preservation", 0.95)
    assert true_answers(kept, labels).tolist() == [[1, 0], [0, 1]]
    digit = Ask((1,), tuple(range(6)), "quality")
    assert true_answers(digit, labels)[0].tolist() == [0, 0, 0.5, 0.5, 0, 0]
    better = Ask((1,), (2, 3), "overall")
    first, second = labels.unbind(0)  # overall .96 x .75 = .72 and .5
    assert compared(better, first, second).tolist() == [1, 0]
    assert compared(better, second, first).tolist() == [0, 1]
    assert compared(better, first, first).tolist() == [0.5, 0.5]
    near = torch.tensor([0.97, 0.9, 0.5])
    torch.testing.assert_close(compared(Ask((1,), (2, 3), "instruction_following"), first, near)[0], torch.tensor(0.65))


def test_each_candidate_is_compared_with_its_neighbour_in_a_ring():
    pairs = neighbours(5, 4, np.random.default_rng(0))
    assert pairs.shape == (5, 4, 2)
    for ring in pairs.tolist():
        assert sorted(first for first, _ in ring) == sorted(second for _, second in ring) == [0, 1, 2, 3]
        assert all(first != second for first, second in ring)


def test_a_batch_depends_on_its_step_alone(parts):
    *_, batches = parts
    first, again, other = batches.at(5), batches.at(5), batches.at(6)
    assert torch.equal(first.pixels, again.pixels) and torch.equal(first.text, again.text)
    assert not torch.equal(first.text, other.text)


def test_residuals_are_zero_for_clean_renderings():
    group = world_group(World("train", 2), 0, 8)
    found = place_residuals(np.stack(group.images), group.scenes)
    clean = group.labels[:, 2] == 1
    assert found[clean].max() < 0.03 < found[~clean].max()


def test_smeared_candidates_are_labelled_by_the_oracle():
    groups = [world_group(World("train", 4), i, 4) for i in range(3)]
    first, again = (smeared_groups(groups, 0.5, np.random.default_rng(0)) for _ in range(2))
    changed = 0
    for old, new, same in zip(groups, first, again, strict=True):
        for k in range(4):
            np.testing.assert_array_equal(new.images[k], same.images[k])
            if not np.array_equal(old.images[k], new.images[k]):
                changed += 1
                (reading,) = read([new.images[k]])
                labels = truth(new.source, new.changes, reading)
                np.testing.assert_allclose(
                    new.labels[k], (labels.following, labels.preservation, labels.quality), atol=1e-6
                )
            else:
                np.testing.assert_array_equal(old.labels[k], new.labels[k])
    assert 3 <= changed <= 9


def test_the_loss_falls_and_every_weight_of_the_model_is_trained(parts):
    model, processor, questions, frame, batches = parts
    trainer = JudgeTrainer(new_model(ModelConfig(**SMALL), processor.tokenizer), frame, dense_steps=10)
    optimizer = torch.optim.AdamW(trainer.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        loss = trainer.loss(trainer, batches.at(0)).total
        loss.backward()
        assert all(p.grad is not None for p in trainer.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_a_run_writes_a_judge_that_loads_and_resumes(tmp_path, capsys):
    half = json.loads(json.dumps(RECIPE))
    half["loop"] |= {"steps": 3, "decay": "constant"}
    whole = json.loads(json.dumps(RECIPE))
    whole["loop"] |= {"decay": "constant"}
    run(half, tmp_path / "a", False)
    run(whole, tmp_path / "a", True)
    run(whole, tmp_path / "b", False)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    card = json.loads((tmp_path / "a" / "model" / "mmreward.json").read_text())
    assert (card["domain"], card["questions"]["expected"]) == ("shapes", "shapes-1")
    assert "validation_pairs" in card["numbers"]
    assert (card["family"], card["taught_by"]) == ("qwen2.5-vl", "oracle")
    assert [recipe["loop"]["steps"] for recipe in card["recipes"]] == [whole["loop"]["steps"]]
    assert card["recipes"][0]["groups"] == whole["groups"] and "command" not in card
    from mmreward import load_reward

    assert load_reward(f"vlm:{tmp_path / 'a' / 'model'}").dims[0] == "instruction_following"


def test_a_run_goes_on_from_weights_with_an_editor_s_outputs(tmp_path, capsys):
    world = World("train", 9)
    for number, task in enumerate(world.tasks(3)):
        Image.fromarray(task.source_image).save(tmp_path / f"s{number}.png")
        for k, candidate in enumerate(world.candidates(task, 3)):
            Image.fromarray(candidate.image).save(tmp_path / f"e{number}{k}.png")
    rows = [
        {"source": f"s{n}.png", "edited": f"e{n}{k}.png", "instruction": task.instruction}
        for n, task in enumerate(world.tasks(3))
        for k in range(3)
    ]
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outputs = read_outputs(tmp_path)
    assert (len(outputs.groups), outputs.edits) == (3, 9)
    for group, task in zip(outputs.groups, world.tasks(3), strict=True):
        expected = [(c.truth.following, c.truth.preservation) for c in world.candidates(task, 3)]
        np.testing.assert_allclose(group.labels[:, :2], expected, atol=1e-6)

    run(RECIPE, tmp_path / "first", False)
    more = {
        **RECIPE,
        "start": str(tmp_path / "first" / "model"),
        "extra": [str(tmp_path)],
        "share": 1.0,
        "look_steps": 0,
    }
    run(more, tmp_path / "second", False)
    assert "9 edits in 3 groups" in capsys.readouterr().out
    card = json.loads((tmp_path / "second" / "model" / "mmreward.json").read_text())
    assert "outputs of an editor" in card["data"] and "; then " in card["data"]
    assert [recipe["share"] for recipe in card["recipes"]] == [JudgeRecipe(**RECIPE).share, 1.0]


def test_rows_of_outputs_are_read_as_everywhere(tmp_path):
    """A line separator within an instruction is no new line; what cannot be opened or read is counted."""
    task = World("train", 9).task(0)
    Image.fromarray(task.source_image).save(tmp_path / "s.png")
    Image.fromarray(task.target_image).save(tmp_path / "e.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "n.png")
    row = {"source": "s.png", "edited": "e.png", "instruction": task.instruction}
    rows = [
        row,
        {**row, "note": "a\u2028b\x85c"},
        {**row, "edited": "gone.png"},
        {**row, "edited": None},
        {**row, "edited": "n.png"},
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "edits.jsonl").write_text(text + "{broken\n", encoding="utf-8")
    outputs = read_outputs(tmp_path / "edits.jsonl")
    assert (outputs.edits, outputs.unreadable) == (6, 4)
    (group,) = outputs.groups
    assert len(group.images) == 2 and group.instruction == task.instruction
    (tmp_path / "bad.jsonl").write_text('{"source": "s.png"}\n')
    with pytest.raises(ConfigError, match="no column"):
        read_outputs(tmp_path / "bad.jsonl")


def test_a_save_that_is_stopped_leaves_the_older_judge(parts, tmp_path, monkeypatch):
    import mmreward.fit.judge_export as judge_export

    model, processor, *_ = parts
    card = judge_export.about("x", {"expected": "shapes-1"}, "none", {"command": "none"}, 0.0, {})
    judge_export.save_judge(model, processor, card, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

    def killed(folder, card):
        raise KeyboardInterrupt

    monkeypatch.setattr(judge_export, "write_card", killed)
    with pytest.raises(KeyboardInterrupt):
        judge_export.save_judge(model, processor, card, tmp_path / "model")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_an_unknown_key_names_the_nearest_and_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="group.*groups"):
        run({**RECIPE, "group": 3}, tmp_path, False)
    with pytest.raises(ConfigError, match="nowhere"):
        read_outputs(tmp_path / "nowhere")


def test_pairs_count_ties_as_half():
    scores, labels = [np.asarray([0.9, 0.5, 0.5])], [np.asarray([1.0, 0.5, 0.2])]
    found = order(scores, labels)  # (0,1) right, (0,2) right, (1,2) tied
    assert (found.right, found.count) == (pytest.approx(2.5 / 3), 3)
    assert order(scores, labels, [np.eye(3, dtype=bool)]).count == 0
    assert spearman(np.asarray([1, 2, 3.0]), np.asarray([1, 2, 4.0])) == pytest.approx(1.0)
