"""The shapes world: determinism, disjoint splits, language both ways, labels that the oracle reads back."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mmreward.shapes import (
    FLAWS,
    KINDS,
    Background,
    LanguageError,
    Scene,
    Shape,
    World,
    grid,
    parse,
    read,
    render,
    truth,
)
from mmreward.shapes.flaws import ARTEFACTS, KEPT_OUT_FLAWS, damage
from mmreward.shapes.language import Add, Move, Recolour, SetBackground, apply
from mmreward.shapes.oracle import overall, quality_of
from mmreward.shapes.read import Reading
from mmreward.shapes.scene import KEPT_OUT_PAIRS
from mmreward.shapes.world import split_of

RED = Shape("circle", "red", "small", 0)
BLUE = Shape("square", "blue", "large", 4)
SCENE = Scene((RED, BLUE), Background("plain", "grey"))


def labels(edited: Scene, *changes, residual: float = 0.0):
    return truth(SCENE, changes, Reading(edited, residual))


def test_a_task_is_a_function_of_split_seed_and_index():
    first, again = World("train", seed=3).task(7), World("train", seed=3).task(7)
    assert first == again
    assert (first.source_image == again.source_image).all()
    assert World("train", seed=4).task(7) != first
    one, two = World("train").candidates(first, 8), World("train").candidates(again, 8)
    assert all((a.image == b.image).all() and a.truth == b.truth for a, b in zip(one, two, strict=True))


def test_no_scene_is_in_two_splits():
    scenes = {split: {World(split).task(i).source.canonical for i in range(200)} for split in ("train", "test")}
    assert not scenes["train"] & scenes["test"]
    assert {split_of(World("validation", seed=s).task(s).source) for s in range(20)} == {"validation"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_instruction_is_parsed_back(kind):
    world = World("train", kinds=(kind,), kept_out="include")
    for task in world.tasks(100):
        assert parse(task.instruction, task.source) == task.changes, task.instruction
        assert apply(task.source, task.changes).background == task.target.background


@pytest.mark.parametrize(
    "text", ["", "make it pretty", "remove the purple star", "make the red circle blue and run", "remove the shape"]
)
def test_text_that_is_not_of_this_world_is_refused(text):
    with pytest.raises(LanguageError):
        parse(text, SCENE)


def test_kept_out_content_stays_out():
    world = World("train")
    for task in world.tasks(150):
        assert task.kind != "resize"
        for candidate in world.candidates(task, 8):
            assert candidate.flaw not in KEPT_OUT_FLAWS
            assert not any(shape.pair in KEPT_OUT_PAIRS for shape in candidate.scene.shapes)
    odd = World("train", kept_out="only").task(0)
    pairs = {shape.pair for scene in (odd.source, odd.target) for shape in scene.shapes}
    assert odd.kind == "resize" or pairs & KEPT_OUT_PAIRS


def test_labels_of_candidates_are_what_the_oracle_reads():
    """The bounds that `mmreward.shapes.oracle` states, for another sample: exact without an artefact and with noise."""
    world = World("validation", kept_out="include")
    pairs = [(task, candidate) for task in world.tasks(120) for candidate in world.candidates(task, 8)]
    readings = read([candidate.image for _, candidate in pairs])
    assert {candidate.flaw for _, candidate in pairs} == set(FLAWS)
    off: dict[str, list[bool]] = {}
    success: dict[str, list[bool]] = {}
    for (task, candidate), reading in zip(pairs, readings, strict=True):
        labels = truth(task.source, task.changes, reading)
        success.setdefault(candidate.flaw, []).append(labels.success)
        artefact = candidate.flaw if candidate.flaw in ARTEFACTS else "besides"
        kind = "clean" if candidate.truth.quality == 1 else artefact
        off.setdefault(kind, []).append(not abs(labels.overall - candidate.truth.overall) <= 0.02)
        if kind == "clean":
            assert labels.overall == candidate.truth.overall, candidate.flaw
    rates = {kind: np.mean(values) for kind, values in off.items()}
    assert rates["clean"] == rates["noise"] == 0
    assert rates["blur"] <= 0.04 and rates["blocks"] <= 0.1 and rates["besides"] <= 0.04, rates
    for flaw in FLAWS:
        assert np.mean(success[flaw]) == 1 if flaw == "none" else np.mean(success[flaw]) <= 0.02, flaw


@pytest.mark.parametrize("shape", ["triangle", "diamond", "circle", "cross"])
@pytest.mark.parametrize("strength", [0.2, 0.5, 0.8])
def test_a_blurred_shape_is_no_star(shape, strength):
    scene = Scene((Shape(shape, "red", "large", 4), Shape(shape, "blue", "small", 0)), Background("striped", "navy"))
    (reading,) = read([damage(render(scene), "blur", strength, np.random.default_rng(0))])
    assert reading.scene is not None and reading.scene.canonical == scene.canonical


def test_a_reading_does_not_depend_on_the_batch():
    world = World("validation", seed=2)
    images = [c.image for task in world.tasks(10) for c in world.candidates(task, 8)]
    alone = [read([image])[0] for image in images]
    assert [r.scene for r in read(images)] == [r.scene for r in alone]


def _jpeg(image: np.ndarray) -> Image.Image:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=75)
    return Image.open(stream)


@pytest.mark.parametrize(
    "disturb",
    [
        _jpeg,
        lambda image: Image.fromarray(image).resize((128, 128), Image.Resampling.LANCZOS),
        lambda image: Image.fromarray(image).resize((40, 40), Image.Resampling.LANCZOS),
        lambda image: Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.8)),
        lambda image: np.clip(image + np.random.default_rng(0).normal(0, 12, image.shape), 0, 255).astype(np.uint8),
    ],
    ids=["jpeg", "twice", "smaller", "blur", "noise"],
)
def test_the_oracle_is_steady(disturb):
    scenes = [World("train").task(i).target for i in range(150)]
    readings = read([disturb(render(scene)) for scene in scenes])
    right = [r.scene is not None and r.scene.canonical == s.canonical for r, s in zip(readings, scenes, strict=True)]
    assert np.mean(right) >= 0.98


def test_an_image_of_nothing_is_unreadable():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (reading,) = read([noise])
    assert reading.scene is None
    labels = truth(SCENE, (Recolour(RED, "blue"),), reading)
    assert np.isnan(labels.overall) and not labels.success


def test_labels_by_hand():
    recolour = Recolour(RED, "green")
    done = SCENE.having(Shape("circle", "green", "small", 0))
    assert labels(done, recolour).overall == 1 and labels(done, recolour).success
    # Nothing done: following 0 of 1; the circle's other attributes, the square and the background are all kept.
    assert (labels(SCENE, recolour).following, labels(SCENE, recolour).preservation) == (0, 1)
    # The square is gone: 2 of 3 things kept.
    assert labels(done.without(BLUE), recolour).preservation == pytest.approx(2 / 3)
    # A shape that nobody asked for is a fourth thing, not kept.
    assert labels(done.having(Shape("star", "red", "small", 8)), recolour).preservation == pytest.approx(3 / 4)
    # Two attributes of a background, one of them there.
    ground = SetBackground("black", "striped")
    assert labels(SCENE.on(Background("plain", "black")), ground).following == 0.5
    # Place, shape and colour asked for; the place is wrong.
    add = Add("star", "pink", None, 8)
    assert labels(SCENE.having(Shape("star", "pink", "large", 7)), add).following == pytest.approx(2 / 3)
    # A moved shape that also stays behind is half a move; elsewhere is none.
    move = Move(RED, 8)
    copy = SCENE.having(Shape("circle", "red", "small", 8))
    assert labels(copy, move).following == 0.5
    assert labels(copy.without(RED), move).following == 1
    astray = SCENE.without(RED).having(Shape("circle", "red", "small", 7))
    assert (labels(astray, move).following, labels(astray, move).preservation) == (0, 1)


def test_quality_and_overall_by_hand():
    assert quality_of(0.03) == 1 and quality_of(0.13) == 0 and quality_of(0.08) == pytest.approx(0.5)
    # 0.5 x (0.6 + 0.4 x 0.25) x (0.5 + 0.5 x 0.6) = 0.5 x 0.7 x 0.8
    assert overall(0.5, 0.25, 0.6) == pytest.approx(0.28)
    assert not labels(SCENE.without(RED), *parse("remove the red circle", SCENE), residual=0.08).success


def test_grid_and_render():
    assert grid(SCENE)[0].tolist() == [1, 1, 1] and grid(SCENE)[4].tolist() == [2, 6, 2] and grid(SCENE).sum() == 13
    image = render(SCENE)
    assert tuple(image[11, 11]) == (214, 40, 40) and tuple(image[32, 32]) == (45, 90, 225)
    assert tuple(image[60, 60]) == (145, 145, 145)
    assert render(SCENE, 128).shape == (128, 128, 3)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="split must be one of"):
        World("dev")
    with pytest.raises(ValueError, match="unknown kinds of instruction \\['rotate'\\]"):
        World(kinds=("rotate",))
