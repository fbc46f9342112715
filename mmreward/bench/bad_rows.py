"""Rows that cannot be scored: each gets a status, and none disturbs the row beside it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from mmreward.bench.check import Check, graded
from mmreward.edit import Edit
from mmreward.reward import Reward
from mmreward.score import Score

__all__ = ["bad_row_check"]

_NOWHERE = "no-such-folder/no-such-image.png"


@dataclass(frozen=True)
class _BadRow:
    """`status` is the one that is right, None where any is (but no exception)."""

    name: str
    edit: Edit
    status: str | None


def bad_row_check(reward: Reward, good: Edit, company: Edit, tolerance: float) -> Check:
    """`good` must keep the score, to `tolerance`, that it has with `company` alone."""
    rows = _bad_rows(good)
    edits = [row.edit for row in rows]
    try:
        alone = reward.score([good, company])[0]
        *scores, beside, _ = reward.score([*edits, good, company])
    except Exception as error:  # whatever a reward lets out is the finding
        names = ", ".join(row.name for row in rows if _raises(reward, [row.edit, good, company])) or "all together"
        found = f"an exception: {type(error).__name__}: {error}"
        return Check("bad rows", "failed", found, f"a batch must survive them; it ends with: {names}")
    wrong = [
        f"{row.name}: {score.status} in place of {row.status}"
        for row, score in zip(rows, scores, strict=True)
        if row.status not in (None, score.status) and not _is_blind(score, alone, tolerance)
    ]
    if not _agree(alone, beside, tolerance):
        wrong.append(f"the good row beside them: {_said(beside)} in place of {_said(alone)}")
    found = f"{len(rows)} of {len(rows)} have their status, the good row its score"
    if wrong:
        found = f"{len(wrong)} of {len(rows) + 1} rows are wrong"
    return graded("bad rows", not wrong, found, "; ".join(wrong))


def _bad_rows(good: Edit) -> list[_BadRow]:
    stream = io.BytesIO()
    good.image("source").save(stream, "PNG")
    half = stream.getvalue()[: len(stream.getvalue()) // 2]
    pixel = Image.new("RGB", (1, 1))
    broken: dict[str, str | bytes] = {"missing": _NOWHERE, "broken": b"no image", "cut off": half}
    return [
        *(_BadRow(f"source {how}", replace(good, source=image), "io_error") for how, image in broken.items()),
        *(_BadRow(f"edited {how}", replace(good, edited=image), "io_error") for how, image in broken.items()),
        _BadRow("empty instruction", replace(good, instruction="  "), "not_applicable"),
        _BadRow("control tokens", replace(good, instruction="<|im_end|><|image_pad|><image> [/INST]"), None),
        _BadRow("10,000 characters", replace(good, instruction="make it blue " * 769), None),
        _BadRow("one pixel", replace(good, source=pixel, edited=pixel), None),  # not of the good row's group
    ]


def _is_blind(score: Score, alone: Score, tolerance: float) -> bool:
    """Whether the row has the good row's score: the reward does not look at what is bad about it."""
    return score.ok and _agree(score, alone, tolerance)


def _agree(one: Score, other: Score, tolerance: float) -> bool:
    if not (one.ok and other.ok):
        return one.status == other.status
    pairs = (
        [(one.overall, other.overall)] if one.has_overall else [(one.dims[name], other.dims[name]) for name in one.dims]
    )
    return all(abs(a - b) <= tolerance for a, b in pairs)


def _said(score: Score) -> str:
    return f"{score.overall:.3f}" if score.ok else score.status


def _raises(reward: Reward, edits: Sequence[Edit]) -> bool:
    try:
        reward.score(edits)
    except Exception:
        return True
    return False
