"""Question sets: the words in which a judge is asked, as versioned text files.

A set has the text that all candidates of a source share (`shared`, with {instruction} and {source}), the text that
shows a candidate (`candidate`, with {edited}), one question a dimension, and the labels of the answer from worst to
best. An optional text `criteria` stands in for {criteria} where an edit brings some.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmreward.judge.prompt import Fixed, Given, Piece, Prompt

__all__ = ["QuestionSet", "load_questions", "question_names"]

_FOLDER = Path(__file__).parent / "questions"
_PLACES = {"shared": {"instruction", "source", "criteria"}, "candidate": {"edited"}, "criteria": {"criteria"}}


class QuestionSet(BaseModel):
    """The words of one way of asking. `version` names them in a score's provenance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    labels: tuple[str, ...] = Field(min_length=2)
    shared: str
    candidate: str
    questions: dict[str, str] = Field(min_length=1)
    criteria: str | None = None

    @model_validator(mode="after")
    def _places(self) -> QuestionSet:
        for name, needed in (("shared", {"instruction", "source"}), ("candidate", {"edited"})):
            found = set(_placeholders(getattr(self, name)))
            if needed - found or found - _PLACES[name]:
                raise ValueError(f"{name} must hold {sorted(needed)} in braces, it holds {sorted(found)}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must differ, got {list(self.labels)}")
        return self

    def prompt(
        self, instruction: str, source: Image.Image, edited: Sequence[Image.Image], criteria: str = ""
    ) -> Prompt:
        """All questions about all candidates of one source; answers come candidate by candidate."""
        extra = tuple(_fill(self.criteria, {"criteria": (Given(criteria),)})) if criteria and self.criteria else ()
        words: dict[str, tuple[Piece, ...]] = {
            "instruction": (Given(instruction),),
            "source": (source,),
            "criteria": extra,
        }
        questions = tuple(Prompt((Fixed(text.strip()),)) for text in self.questions.values())
        branches = tuple(Prompt(tuple(_fill(self.candidate, {"edited": (image,)})), questions) for image in edited)
        return Prompt(tuple(_fill(self.shared, words)), branches)


def question_names() -> list[str]:
    """Names of the bundled question sets."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_questions(name: str | Path) -> QuestionSet:
    """A bundled set by name, or a set of your own by the path of its YAML file. Raises ValueError."""
    path = _FOLDER / f"{name}.yaml"
    if str(name) not in question_names():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            from mmreward.reward import unknown

            raise unknown("question set", str(name), question_names())
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return QuestionSet.model_validate(values)
    except OSError as error:
        raise ValueError(f"question set {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"question set {path} is not YAML: {error}") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'set'}: {p['msg']}" for p in error.errors())
        raise ValueError(f"question set {path}: {problems}") from None


def _placeholders(text: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", text)


def _fill(text: str, pieces: dict[str, tuple[Piece, ...]]) -> Iterator[Piece]:
    for i, part in enumerate(re.split(r"\{(\w+)\}", text)):
        if i % 2:
            yield from pieces[part]
        elif part:
            yield Fixed(part)
