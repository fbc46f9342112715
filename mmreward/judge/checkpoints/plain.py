"""Published judges that are a prompt and a parser: plain vision-language models, asked in their own words.

Each has one file, which defines a `PlainJudge`. Their authors serve them over HTTP with images as JPEG; here images go
to the model as they are.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmreward.judge.backends.backend import Sampling
from mmreward.judge.checkpoints.texts import Texts
from mmreward.judge.way import Way
from mmreward.score import Score, Spread, Status

__all__ = ["Judged", "PlainJudge", "settle", "with_system"]


@dataclass(frozen=True)
class PlainJudge:
    """`where` tells people where the words are published, `places` and `digest` tell `read_texts`. `sampling` are the
    published options of writing. `system` is the number of the text that is the system message.
    """

    where: str
    places: tuple[str, ...]
    digest: str
    sampling: Mapping[str, str]
    make: Callable[[Texts, Sampling], Way]
    system: int | None = None


@dataclass(frozen=True)
class Judged:
    """What one pass says of one edit, or a status other than "ok" with the reason."""

    overall: float = 0.0
    dims: Mapping[str, float] = field(default_factory=dict)
    raw: Mapping[str, float] = field(default_factory=dict)
    rationale: str | None = None
    status: Status = "ok"
    error: str | None = None


def settle(passes: Sequence[Judged], provenance: Mapping[str, Any]) -> Score:
    """The mean of the passes that could be read, their standard deviation as spread; a failure where there are none."""
    good = [one for one in passes if one.status == "ok"]
    raw = {"passes": float(len(passes)), "passes_failed": float(len(passes) - len(good))}
    said = [one.rationale for one in passes if one.rationale]
    rationale = "\n".join(said) or None
    if not good:
        status = Counter(one.status for one in passes).most_common(1)[0][0]
        error = str(next(one.error for one in passes if one.status == status))
        return Score.failed(status, error, rationale=rationale, raw=raw, provenance=provenance)
    for name in dict.fromkeys(name for one in good for name in one.raw):
        raw[name] = statistics.fmean(one.raw[name] for one in good if name in one.raw)
    dims = {
        name: statistics.fmean(one.dims[name] for one in good if name in one.dims)
        for name in dict.fromkeys(name for one in good for name in one.dims)
    }
    overall = [one.overall for one in good]
    spread = Spread("passes", statistics.stdev(overall)) if len(overall) > 1 else None
    return Score(statistics.fmean(overall), dims, rationale=rationale, spread=spread, raw=raw, provenance=provenance)


def with_system(template: str, text: str) -> str:
    """A chat template that puts this system message before every conversation."""
    message = json.dumps({"role": "system", "content": text})
    return "{%- set messages = [" + message + "] + messages -%}\n" + template
