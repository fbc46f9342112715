"""Rows that cannot be judged: each has a status, and the others are judged as if it were not there."""

import pytest
import torch
from PIL import Image

from mmreward import Edit, load_reward
from mmreward.judge.backends.transformers import TransformersBackend
from mmreward.judge.reward import judge_reward
from mmreward.judge.ways import load_way
from mmreward.shapes import World

SPECS = (
    "vlm:tiny?domain=any&floor=0",
    "vlm:tiny?domain=any&floor=0&way=pairwise",
    "vlm:tiny?domain=any&floor=0&way=checklist",
)
BROKEN = {
    "missing source": {"source": "/nowhere/source.png"},
    "broken source": {"source": b"no image"},
    "empty source": {"source": b""},
    "missing edited": {"edited": "/nowhere/edited.png"},
    "broken edited": {"edited": b"no image"},
    "empty instruction": {"instruction": " \n"},
    "source of no shape": {"source": Image.new("RGB", (12000, 40))},
    "edited of no shape": {"edited": Image.new("RGB", (12000, 40))},
}

MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
]


@pytest.fixture(scope="module")
def rows():
    """Four candidates of one source."""
    world = World("validation", seed=4)
    task = next(iter(world.tasks(1)))
    source = Image.fromarray(task.source_image)
    images = [Image.fromarray(candidate.image) for candidate in world.candidates(task, 4)]
    return [{"instruction": task.instruction, "source": source, "edited": image} for image in images]


@pytest.fixture(scope="module", params=SPECS)
def judge(request):
    return load_reward(request.param)


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_row_has_a_status_and_changes_nothing_for_the_others(judge, rows, name):
    expected = [score.overall for score in judge.score([Edit(**row) for row in rows])]
    edits = [Edit(**row) for row in rows]
    edits.insert(2, Edit(**(rows[0] | BROKEN[name])))
    scores = judge.score(edits)
    bad = scores.pop(2)
    assert bad.status == ("not_applicable" if "empty instr" in name or "no shape" in name else "io_error")
    assert bad.error and bad.provenance["model"] == "tiny-judge"
    assert [score.overall for score in scores] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scheme", ["ring", "random", "anchor"])
@pytest.mark.parametrize("name", ["broken edited", "edited of no shape"])
def test_win_rates_are_those_of_the_others_alone_under_any_scheme(rows, scheme, name):
    judge = load_reward(f"vlm:tiny?domain=any&floor=0&way=pairwise&pairs={scheme}&rivals=1")
    expected = [score.overall for score in judge.score([Edit(**row) for row in rows])]
    scores = judge.score([Edit(**row) for row in rows] + [Edit(**(rows[0] | BROKEN[name]))])
    assert [score.overall for score in scores[:-1]] == pytest.approx(expected, abs=1e-5)
    assert not scores[-1].ok


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_pair_has_a_status_and_changes_nothing_for_the_others(rows, name):
    judge = load_reward("vlm:tiny?domain=any&floor=0&way=pairwise")
    first, second = Edit(**rows[0]), Edit(**rows[1])
    (expected,) = judge.compare([(first, second)])
    bad = Edit(**(rows[2] | BROKEN[name]))
    preferences = judge.compare([(bad, first), (first, second), (second, bad)])
    assert preferences[1].first == pytest.approx(expected.first, abs=1e-5)
    assert [preference.ok for preference in preferences] == [False, True, False]
    assert preferences[0].error.startswith("first: ") and preferences[2].error.startswith("second: ")


@pytest.mark.parametrize("spec", SPECS)
def test_a_mask_or_target_that_no_judge_looks_at_does_not_matter(rows, spec):
    judge = load_reward(spec)
    plain = [Edit(**row) for row in rows]
    odd = [Edit(**row, mask=b"no image", target="/nowhere.png", inputs=[b"no image"]) for row in rows]
    assert [s.overall for s in judge.score(odd)] == [s.overall for s in judge.score(plain)]
    if hasattr(judge, "compare"):
        assert judge.compare([tuple(odd[:2])])[0].first == judge.compare([tuple(plain[:2])])[0].first


class _Failing:
    """A processor's part for images that another version of the library broke."""

    def __init__(self, processor):
        self.processor = processor

    def __getattr__(self, name):
        return getattr(self.processor, name)

    def __call__(self, *args, **kwargs):
        raise TypeError("unexpected keyword argument 'disable_grouping'")


@pytest.mark.parametrize("layout", ["packed", "cached", "plain"])
def test_a_library_that_raises_is_an_error_and_no_row_that_did_not_apply(small, rows, layout, monkeypatch):
    model, processor = small
    backend = TransformersBackend(model, processor, layout=layout)
    if backend.shared:
        monkeypatch.setattr(backend.shared.family, "image_processor", _Failing(processor.image_processor))
    else:
        monkeypatch.setattr(backend._way, "processor", _Failing(processor))
    for way in ("expected", "rubric"):
        judge = judge_reward(backend, load_way(way, {}), name="x", model="x")
        scores = judge.score([Edit(**row) for row in rows])
        assert {score.status for score in scores} == {"error"}
        assert all("disable_grouping" in score.error for score in scores)


@pytest.mark.parametrize("error", MEMORY_ERRORS)
@pytest.mark.parametrize("layout", ["packed", "cached", "plain"])
@pytest.mark.parametrize("part", ["decoder", "tower"])
def test_out_of_memory_is_an_error(small, rows, layout, part, error, monkeypatch):
    backend = TransformersBackend(*small, layout=layout)
    module = small[0].model.language_model if part == "decoder" else small[0].model.visual

    def full(*_, **__):
        raise error

    monkeypatch.setattr(module, "forward", full)
    for way in ("expected", "rubric"):
        judge = judge_reward(backend, load_way(way, {}), name="x", model="x")
        scores = judge.score([Edit(**row) for row in rows[:2]])
        assert {score.status for score in scores} == {"error"}
        assert all("memory" in score.error for score in scores)


def test_blanks_at_the_ends_of_an_instruction_are_kept(small, rows):
    """Published judges are asked with them."""
    asked = []

    class Way:
        version, dims = "x", ()

        def check(self, backend):
            pass

        def score(self, groups, backend):
            asked.extend(group.instruction for group in groups)
            return load_way("expected", {"floor": "0"}).score(groups, backend)

    judge = judge_reward(TransformersBackend(*small), Way(), name="x", model="x")
    judge.score([Edit(**(rows[0] | {"instruction": " make it blue\n"}))])
    assert asked == [" make it blue\n"]


@pytest.mark.parametrize(
    ("known_for", "domain", "told"),
    [("any", None, "any"), ("shapes", None, "shapes"), ("shapes", "any", "ignored"), ("any", "shapes", "shapes"),
     ("shapes", "shapes", "shapes"), ("any", "any", "any")],
)  # fmt: skip
def test_provenance_says_the_domain_that_is_enforced(small, rows, known_for, domain, told):
    way = load_way("expected", {"floor": "0"})
    judge = judge_reward(TransformersBackend(*small), way, name="x", model="x", known_for=known_for, domain=domain)
    photo = Image.effect_noise((64, 64), 90).convert("RGB")
    inside, outside = judge.score([Edit(**rows[0]), Edit(**(rows[0] | {"source": photo}))])
    assert inside.provenance["domain"] == told and inside.ok
    assert outside.ok == (told != "shapes")


def test_judges_that_compare_need_whole_groups(small):
    backend = TransformersBackend(*small)
    for way in ("expected", "rubric", "pairwise", "checklist", "entities"):
        judge = judge_reward(backend, load_way(way, {}), name="x", model="x")
        assert judge.needs_group == (way == "pairwise")


def test_a_library_that_raises_costs_only_the_row_that_it_raises_for(rows, monkeypatch):
    judge = load_reward(SPECS[0])
    expected = [score.overall for score in judge.score([Edit(**row) for row in rows])]
    bad = rows[1]["edited"]
    score_groups = judge.way.score

    def raises(groups, backend):
        if any(image.tobytes() == bad.tobytes() for group in groups for image in group.edited):
            raise KeyError("no kernel for this image")
        return score_groups(groups, backend)

    monkeypatch.setattr(type(judge.way), "score", lambda self, groups, backend: raises(groups, backend))
    scores = judge.score([Edit(**row) for row in rows])
    assert scores[1].status == "error" and "KeyError: 'no kernel" in scores[1].error
    assert [scores[row].overall for row in (0, 2, 3)] == pytest.approx([expected[row] for row in (0, 2, 3)], abs=1e-5)


def test_a_judge_says_to_what_it_applies_without_looking_at_the_candidate(rows):
    judge = load_reward("vlm:tiny")
    photo = Image.effect_noise((64, 64), 60).convert("RGB")
    assert judge.applies(Edit(**(rows[0] | {"edited": "/nowhere.png"}))) is None
    assert judge.applies(Edit(**(rows[0] | {"source": photo}))).status == "not_applicable"
    assert judge.applies(Edit(**(rows[0] | {"instruction": " "}))).error == "the instruction is empty"
