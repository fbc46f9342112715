"""What must hold for any reward, asked on four tasks of the shapes world: the true result beside the untouched source,
the same with an invisible change, and the two images the other way round. Each edit has company, for rewards that
compare edits of one source.

Thresholds. Scores of one process repeat to 1e-6 and agree between a batch and single edits to 1e-3; a server rounds
and batches as it likes, where more than 0.02 would blur the order of candidates. A change that nobody sees is worth at
most 0.02.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

from mmreward.bench.bad_rows import bad_row_check
from mmreward.bench.check import Check, Outcome, graded
from mmreward.bench.known_edits import KnownTask, known_tasks
from mmreward.bench.parts import is_judge, parts, served_backend
from mmreward.edit import Edit
from mmreward.reward import Reward
from mmreward.score import Score

__all__ = ["reward_checks"]

_REPEATED, _BATCHED, _SERVER = 1e-6, 1e-3, 0.02
_MASS = 0.9
_INVISIBLE = 0.02
_HIGH = 0.5


def reward_checks(reward: Reward, *, member: bool = False, optional: bool = False) -> Iterator[Check]:
    """The findings, one by one. A reward that is no judge may prefer an untouched image: then that is a warning, and
    none where it is the `member` of a combination, which has others that read the instruction. `optional`: it may not
    apply.
    """
    tasks = known_tasks()
    scores = _score(reward, tasks)
    if _none_applies(scores):  # to edits without a known good result
        tasks = known_tasks(targets=True)
        scores = _score(reward, tasks)
    right, copies, invisible, exchanged, company = (scores[place::5] for place in range(5))
    known = _scored(scores, [*exchanged, *company], optional)
    yield known
    if known.status != "ok":
        return
    judged, is_relative = is_judge(reward), reward.needs_group
    served = any(served_backend(part.reward) for part in parts(reward))
    if judged or not member:
        yield _better("right edits", right, copies, "the untouched source", judged)
        yield _better("image order", right, exchanged, "the two images exchanged", judged)
    if not member and not is_relative:  # a win rate says nothing about its level
        yield _untouched(copies)
    yield _invisible(copies, invisible, "warning" if served or is_relative else "failed")
    yield from _masses(scores)
    yield _agree("repeated", scores, _score(reward, tasks), _SERVER if served else _REPEATED, served)
    single = [reward.score([task.right])[0] for task in tasks]
    if is_relative or _none_applies(single):
        yield Check(
            "batch and single", "skipped", "alone an edit has no score: this reward compares edits of one source"
        )
    else:
        yield _agree("batch and single", right, single, _SERVER if served else _BATCHED, served)
    yield bad_row_check(reward, tasks[0].right, tasks[0].copy, _SERVER if served else _BATCHED)


def _score(reward: Reward, tasks: Sequence[KnownTask]) -> list[Score]:
    """Scores of all edits, five for each task."""
    edits: list[Edit] = [edit for task in tasks for edit in task.edits]
    return reward.score(edits)


def _none_applies(scores: Sequence[Score]) -> bool:
    return all(score.status == "not_applicable" for score in scores)


def _scored(scores: Sequence[Score], exchanged: Sequence[Score], optional: bool) -> Check:
    """Edits whose images are `exchanged` need not make sense to a reward: they may be not applicable."""
    bad = [score for score in scores if not score.ok]
    found = f"{len(scores) - len(bad)} of {len(scores)} edits of the shapes world have a score"
    if not bad:
        return Check("scores", "ok", found)
    reason = f"{bad[0].status}: {bad[0].error}"
    if _none_applies(scores):
        outcome: Outcome = "skipped" if optional else "failed"
        return Check("scores", outcome, found, f"{reason}. The doctor has no other edits to ask about")
    senseless = [score for score in exchanged if score.status == "not_applicable"]
    return graded("scores", len(senseless) == len(bad), found, reason)


def _better(name: str, good: Sequence[Score], bad: Sequence[Score], than: str, judged: bool) -> Check:
    pairs = [(one, other) for one, other in zip(good, bad, strict=True) if one.ok and other.ok]
    if not pairs:
        return Check(name, "skipped", f"{than}: not applicable")
    above = sum(_value(one) > _value(other) for one, other in pairs)
    found = f"{above} of {len(pairs)} score above {than}"
    means = f"means: right {_mean([one for one, _ in pairs]):.3f}, {than} {_mean([other for _, other in pairs]):.3f}. "
    advice = means + (
        "A judge that does this reads the images in another order, does not see them, or does not understand the "
        "question"
        if judged
        else "Do not train on this reward alone"
    )
    low = judged and above <= len(pairs) // 2
    return graded(name, above == len(pairs), found, advice, otherwise="failed" if low else "warning")


def _untouched(copies: Sequence[Score]) -> Check:
    highest = max(_value(score) for score in copies)
    advice = (
        "an editor that does nothing earns this, and filter keeps copies; use it beside a reward that reads the "
        "instruction (base_and_bonus, as in recommended)"
    )
    found = f"an untouched copy scores up to {highest:.3f}"
    return graded("untouched copy", highest <= _HIGH, found, advice, otherwise="warning")


def _invisible(copies: Sequence[Score], changed: Sequence[Score], otherwise: Outcome) -> Check:
    gain = max(_value(one) - _value(other) for one, other in zip(changed, copies, strict=True))
    found = f"one grey level in 1 % of the pixels is worth {max(gain, 0.0):.3f}"
    advice = f"more than {_INVISIBLE:g} above the untouched copy: an editor earns it without doing anything"
    return graded("invisible change", gain <= _INVISIBLE, found, advice, otherwise=otherwise)


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
    gaps = [abs(_value(a) - _value(b)) for a, b in zip(one, other, strict=True) if a.ok and b.ok]
    changed = sum(a.status != b.status for a, b in zip(one, other, strict=True))
    worst = max(gaps, default=math.nan)
    found = f"largest difference {worst:.2g}" + (f", {changed} changed their status" if changed else "")
    advice = f"more than {tolerance:g}"
    if served:
        advice += "; the server's batching moves scores (vLLM: VLLM_BATCH_INVARIANT=1; SGLang: "
        advice += "--enable-deterministic-inference), or it draws answers at random (?passes averages them)"
    return graded(name, worst <= tolerance and not changed, found, advice, otherwise="warning" if served else "failed")


def _value(score: Score) -> float:
    """The one number of a score, the mean of its dimensions where it has none."""
    return score.overall if score.has_overall else fmean(score.dims.values())


def _mean(scores: Sequence[Score]) -> float:
    return fmean(_value(score) for score in scores)
