"""RationalRewards, pointwise: four aspects from 1 to 4 in a report with headings.

TIGER-Lab, 2026, https://github.com/TIGER-AI-Lab/RationalRewards; model TIGER-Lab/RationalRewards-8B-Edit. Following,
preservation, quality, and text rendering where the instruction asks for text:

    overall = (mean of the aspects - 1) / 3

An aspect may be "N/A". One that is missing, or off the scale, makes the answer a failure: their code averages what is
left, and gives 0 where nothing is. The instruction comes first, each image where the text announces it, and one text
is a system message. Written at temperature 0.1.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from mmreward.judge.backends.backend import Backend, Sampling, Text
from mmreward.judge.checkpoints.plain import Judged, PlainJudge, settle
from mmreward.judge.checkpoints.texts import Texts
from mmreward.judge.prompt import Given, Prompt
from mmreward.judge.way import Group
from mmreward.judge.ways.sampling import described
from mmreward.score import Score

__all__ = ["JUDGE", "read_report"]

_ASPECTS = {
    "Text Faithfulness": "instruction_following",
    "Image Faithfulness": "preservation",
    "Physical and Visual Quality": "quality",
    "Text Rendering": "text_rendering",
}
_LEAST, _MOST = 1.0, 4.0
_HEADING = re.compile(rf"^[ \t#*]*\d\.[ \t*]*({'|'.join(_ASPECTS)})\b", re.MULTILINE)
_SUMMARY = re.compile(r"^#+ *Summary\b", re.MULTILINE)
_SCORE = re.compile(r"^[ \t#*]*Score[ \t*]*:[ \t*\[]*(N/A|-?\d+(?:\.\d+)?)(?![\d.]*\d|[ \t]*[-–])", re.MULTILINE)


def read_report(text: str) -> Judged:
    """The aspects of a report, up to its summary."""
    body = _SUMMARY.split(text, maxsplit=1)[0]
    parts = _HEADING.split(body)
    raw: dict[str, float] = {}
    seen = set()
    for heading, part in zip(parts[1::2], parts[2::2], strict=True):
        name, found = _ASPECTS[heading], _SCORE.findall(part)
        if name in seen or len(found) != 1:
            what = "is there twice" if name in seen else f"has {len(found)} scores"
            return Judged(rationale=text, status="parse_error", error=f"{heading} {what} in the report")
        seen.add(name)
        if found[0] == "N/A":
            continue
        raw[name] = float(found[0])
        if not _LEAST <= raw[name] <= _MOST:
            error = f"{heading} {raw[name]:g}: off the scale, which goes from {_LEAST:g} to {_MOST:g}"
            return Judged(rationale=text, status="parse_error", error=error)
    missing = [heading for heading, name in _ASPECTS.items() if name not in seen]
    if missing or not raw:
        error = f"no score for {', '.join(missing)}" if missing else "every aspect is N/A"
        return Judged(rationale=text, status="parse_error", error=f"{error} in the report")
    dims = {name: (value - _LEAST) / (_MOST - _LEAST) for name, value in raw.items()}
    return Judged(statistics.fmean(dims.values()), dims, raw, text)


class _ReportWay:
    """`raw` has the aspects as they were written."""

    dims = tuple(_ASPECTS.values())

    def __init__(self, texts: Texts, sampling: Sampling) -> None:
        _, task, guideline = texts.values
        self.parts = f"{task}\n\n{guideline}".split("<image>")
        if len(self.parts) != 3 or "{request}" not in self.parts[0]:
            raise ValueError(
                "the prompt must hold {request} and then <image> twice, for the source and the edited image"
            )
        self.sampling, self.version = sampling, texts.about
        self._provenance = {"way": "report", **described(sampling)}

    def check(self, backend: Backend) -> None:
        """Any backend that writes text will do."""

    def score(self, groups: Sequence[Group], backend: Backend) -> list[list[Score]]:
        written = backend.generate([self._prompt(group) for group in groups], self.sampling)
        return [[settle([_read(text) for text in texts], self._provenance) for texts in leaves] for leaves in written]

    def _prompt(self, group: Group) -> Prompt:
        first, second, third = self.parts
        shared = (Given(first.replace("{request}", group.instruction)), group.source, Given(second))
        return Prompt(shared, tuple(Prompt((image, Given(third))) for image in group.edited))


def _read(text: Text) -> Judged:
    if text.status != "ok":
        return Judged(status=text.status, error=text.error)
    if not text.text.strip():
        return Judged(status="parse_error", error="the answer is empty")
    if not text.finished and not _SUMMARY.search(text.text):  # the last number may lack digits
        error = "the answer was cut off before its summary; allow more new tokens"
        return Judged(rationale=text.text, status="parse_error", error=error)
    return read_report(text.text)


JUDGE = PlainJudge(
    where="file README.md of github.com/TIGER-AI-Lab/RationalRewards",
    places=tuple(
        f"README.md:build_i2i_messages.{name}"
        for name in ("system_prompt", "task_related_template", "common_task_guideline")
    ),
    digest="3776bee29731fc0b14751b5253d15bb404ee9422d74da5f6fd2ac77d7d22287f",
    sampling={"temperature": "0.1", "top_p": "1", "max_new_tokens": "2048"},
    make=_ReportWay,
    system=0,
)
