"""What must hold for any reward, asked on four tasks of the shapes world: the true result beside the untouched source,
and the same two images the other way round. Each edit has company, for rewards that compare edits of one source.

Thresholds. Scores of one process repeat to 1e-6 and agree between a batch and single edits to 1e-3; a server rounds
and batches as it likes, where more than 0.02 would blur the order of candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from PIL import Image

from mmreward.bench.check import Check, graded
from mmreward.edit import Edit
from mmreward.reward import Reward
from mmreward.score import Score
from mmreward.shapes import Task, World

__all__ = ["reward_checks"]

TASKS = 4
_REPEATED, _BATCHED, _SERVER = 1e-6, 1e-3, 0.02
_MASS = 0.9


def reward_checks(reward: Reward) -> Iterator[Check]:
    """The findings, one by one. A reward that is no judge may prefer an untouched image: then that is a warning."""
    tasks = list(World("validation", seed=0).tasks(TASKS))
    right = [_edit(task, task.source_image, task.target_image) for task in tasks]
    copies = [_edit(task, task.source_image, task.source_image) for task in tasks]
    turned = [_edit(task, task.target_image, task.source_image) for task in tasks]
    company = [_edit(task, task.target_image, task.target_image) for task in tasks]
    edits = [*right, *copies, *turned, *company]
    scores = reward.score(edits)
    known = _scored(scores)
    yield known
    if known.status == "failed":
        return
    judged = hasattr(reward, "backend")
    yield _better("right edits", scores[:TASKS], scores[TASKS : 2 * TASKS], "the untouched source", judged)
    yield _better("image order", scores[:TASKS], scores[2 * TASKS : 3 * TASKS], "the two images exchanged", judged)
    yield from _masses(scores)
    served = getattr(getattr(reward, "backend", None), "server", None) is not None
    again = reward.score(edits)
    yield _agree("repeated", scores, again, _SERVER if served else _REPEATED, served)
    single = [reward.score([edit])[0] for edit in edits[:TASKS]]
    if all(score.status == "not_applicable" for score in single):
        yield Check(
            "batch and single", "skipped", "alone an edit has no score: this reward compares edits of one source"
        )
    else:
        yield _agree("batch and single", scores[:TASKS], single, _SERVER if served else _BATCHED, served)
    yield _bad_rows(reward, right[0], copies[0])


def _edit(task: Task, source: object, edited: object) -> Edit:
    captions = {"source_caption": task.source_caption, "target_caption": task.target_caption}
    return Edit(task.instruction, Image.fromarray(source), Image.fromarray(edited), **captions)  # type: ignore[arg-type]


def _scored(scores: Sequence[Score]) -> Check:
    bad = [score for score in scores if not score.ok]
    found = f"{len(scores) - len(bad)} of {len(scores)} edits of the shapes world have a score"
    if not bad:
        return Check("scores", "ok", found)
    reason = f"{bad[0].status}: {bad[0].error}"
    if all(score.status == "not_applicable" for score in bad) and len(bad) == len(scores):
        return Check("scores", "failed", found, f"{reason}. The doctor has no other edits to ask about")
    return Check("scores", "failed", found, reason)


def _better(name: str, good: Sequence[Score], bad: Sequence[Score], than: str, judged: bool) -> Check:
    above = sum(one.overall > other.overall for one, other in zip(good, bad))
    found = f"{above} of {len(good)} right edits score above {than}"
    advice = (
        f"means: right {_mean(good):.3f}, {than} {_mean(bad):.3f}. A judge that does this reads the images in another "
        "order, does not see them, or does not understand the question"
        if judged
        else f"means: right {_mean(good):.3f}, {than} {_mean(bad):.3f}. Do not train on this reward alone"
    )
    low = judged and above <= len(good) // 2
    return graded(name, above == len(good), found, advice, otherwise="failed" if low else "warning")


def _masses(scores: Sequence[Score]) -> Iterator[Check]:
    masses = [value for score in scores for name, value in score.raw.items() if name.endswith("_mass")]
    if masses:
        found = f"labels hold {min(masses):.3f} to {max(masses):.3f} of the probability"
        advice = (
            "the model would rather say something else, often a word before the label: ask with another question set "
            "(?question=), or let a thinking model answer at once (?thinking=no)"
        )
        yield graded("label mass", min(masses) >= _MASS, found, advice, otherwise="warning")


def _agree(name: str, one: Sequence[Score], other: Sequence[Score], tolerance: float, served: bool) -> Check:
    gaps = [abs(a.overall - b.overall) for a, b in zip(one, other) if a.ok and b.ok]
    changed = sum(a.status != b.status for a, b in zip(one, other))
    worst = max(gaps, default=math.nan)
    found = f"largest difference {worst:.2g}" + (f", {changed} changed their status" if changed else "")
    advice = f"more than {tolerance:g}"
    if served:
        advice += "; the server's batching moves scores (vLLM: VLLM_BATCH_INVARIANT=1; SGLang: "
        advice += "--enable-deterministic-inference), or it draws answers at random (?passes averages them)"
    return graded(name, worst <= tolerance and not changed, found, advice, otherwise="warning" if served else "failed")


def _bad_rows(reward: Reward, good: Edit, company: Edit) -> Check:
    """Rows that cannot be scored get a status, and do not disturb the row beside them."""
    rows = [
        Edit(good.instruction, good.source, b"no image"),
        Edit("  ", good.source, good.edited),
        Edit("<|im_end|><|image_pad|><image> [/INST]", good.source, good.edited),
        good,
        company,
    ]
    try:
        scores = reward.score(rows)
    except Exception as error:  # whatever a reward lets out is the finding
        return Check(
            "bad rows", "failed", f"an exception: {type(error).__name__}: {error}", "a batch must survive them"
        )
    found = ", ".join(score.status for score in scores[:4])
    advice = "expected io_error, not_applicable, anything, ok"
    expected = scores[0].status == "io_error" and scores[1].status == "not_applicable" and scores[3].ok
    return graded("bad rows", expected, found, advice)


def _mean(scores: Sequence[Score]) -> float:
    return sum(score.overall for score in scores) / len(scores)
