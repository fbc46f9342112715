"""FIRM: two questions with grades from 1 to 5, was the request carried out, and did anything else change.

"FIRM" (VisionXLab, 2026, https://github.com/VisionXLab/FIRM-Reward); models VisionXLab/FIRM-Edit-8B and any general
judge. With e = execution / 5 and c = consistency / 5 (so that the worst grade is 0.2),

    firm              e x (0.6 + 0.4 c)
    firm-execution    e
    firm-consistency  c

Images first (source, edited), then the text; written greedily. What cannot be read is a failure (0 in their code).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from mmreward.judge.backends.backend import Backend, Sampling, Text
from mmreward.judge.checkpoints.plain import Judged, PlainJudge, settle
from mmreward.judge.checkpoints.texts import Texts
from mmreward.judge.parse import read_scores
from mmreward.judge.prompt import Given, Prompt
from mmreward.judge.way import Group, Way
from mmreward.judge.ways.sampling import described
from mmreward.score import Score

__all__ = ["CONSISTENCY", "EXECUTION", "FIRM"]

_DIMS = {"execution": "instruction_following", "consistency": "preservation"}
_MOST = 5.0


class _FirmWay:
    """`raw` has the grades as they were written."""

    def __init__(self, texts: Texts, sampling: Sampling, asked: Sequence[str]) -> None:
        self.questions = dict(zip(asked, texts.values, strict=True))
        self.sampling, self.version = sampling, texts.about
        self.dims = tuple(_DIMS[name] for name in asked)
        self._provenance = {"way": "firm", **described(sampling)}
        for name, text in self.questions.items():
            if "\0" not in _filled(text, "\0", ""):
                raise ValueError(f"the prompt for {name} must hold {{prompt}}, where the instruction goes")

    def check(self, backend: Backend) -> None:
        """Any backend that writes text will do."""

    def score(self, groups: Sequence[Group], backend: Backend) -> list[list[Score]]:
        written = backend.generate([self._prompt(group) for group in groups], self.sampling)
        count = len(self.questions)
        return [
            [self._score(leaves[start : start + count]) for start in range(0, len(leaves), count)] for leaves in written
        ]

    def _prompt(self, group: Group) -> Prompt:
        texts = [_filled(text, group.instruction, group.criteria) for text in self.questions.values()]
        questions = tuple(Prompt((Given(text),)) for text in texts)
        return Prompt((group.source,), tuple(Prompt((image,), questions) for image in group.edited))

    def _score(self, answers: Sequence[Sequence[Text]]) -> Score:
        """The score of one edit: for each question its passes."""
        return settle([self._read(texts) for texts in zip(*answers, strict=True)], self._provenance)

    def _read(self, texts: Sequence[Text]) -> Judged:
        grades: dict[str, float] = {}
        said = []
        for name, text in zip(self.questions, texts, strict=True):
            if text.status != "ok":
                return Judged(status=text.status, error=f"{name}: {text.error}")
            reading = read_scores(text.text, ["score"], 1, _MOST, finished=text.finished)
            if reading.status != "ok":
                return Judged(rationale=reading.rationale, status=reading.status, error=f"{name}: {reading.error}")
            grades[name] = reading.scores[0]
            said.append(f"{name}: {reading.rationale}")
        shares = {name: grade / _MOST for name, grade in grades.items()}
        if len(shares) == 2:
            overall = shares["execution"] * (0.6 + 0.4 * shares["consistency"])
        else:
            (overall,) = shares.values()
        return Judged(overall, {_DIMS[name]: share for name, share in shares.items()}, grades, "\n".join(said))


def _filled(text: str, instruction: str, requirement: str) -> str:
    try:
        return text.format(prompt=instruction, requirement=requirement)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"the prompt has braces that are no place: {error}; write {{{{ and }}}} for braces") from None


def _judge(digest: str, *asked: str) -> PlainJudge:
    make: Callable[[Texts, Sampling], Way] = partial(_FirmWay, asked=asked)
    return PlainJudge(
        where="file editing/reward_server/prompt_template.py of github.com/VisionXLab/FIRM-Reward",
        places=tuple(f"prompt_template.py:SCORE_{name.upper()}" for name in asked),
        digest=digest,
        sampling={"temperature": "0", "max_new_tokens": "256"},
        make=make,
    )


FIRM = _judge("cd542d6a2fa44508a8fc666240d82a1d442fabbd7a4abd90f6064364271f4482", "execution", "consistency")
EXECUTION = _judge("783afca98f0f721762044648f5d3fb81c05627b74330b4dcff29d56a94d9dfac", "execution")
CONSISTENCY = _judge("d494edfe0daaff67d8dc36b1d7dc8dd28f8597eba9fbf131daa409eee48a2051", "consistency")
