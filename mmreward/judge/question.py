"""Question sets: the words in which a judge is asked, as versioned text files.

Each way of judging has its own kind of set, in a folder of its name under `questions`; its model is a `Wording`. Texts
have places in braces for what differs from edit to edit: {instruction}, {source}, {edited}, … An optional text stands
in for its place where there is something to say, {criteria} for example, and is left out where there is not.

`QuestionSet` is the kind for expected scores: the text that all candidates of a source share (`shared`), the text that
shows a candidate (`candidate`), one question a dimension, and the labels of the answer from worst to best.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmreward.judge.backends.backend import Backend
from mmreward.judge.prompt import Fixed, Given, Piece, Prompt

__all__ = [
    "LabelWording",
    "QuestionSet",
    "Wording",
    "fill",
    "load_questions",
    "load_wording",
    "optional",
    "question_names",
]

_FOLDER = Path(__file__).parent / "questions"


class Wording(BaseModel):
    """The words of one way of asking. `version` names them in a score's provenance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    places: ClassVar[Mapping[str, tuple[set[str], set[str]]]] = {}
    """Text -> places that it must hold, and others that it may hold."""

    version: str

    @model_validator(mode="after")
    def _places(self) -> Wording:
        for name, (needed, others) in self.places.items():
            text = getattr(self, name)
            found = set(re.findall(r"\{(\w+)\}", text or ""))
            if text is not None and (needed - found or found - needed - others):
                raise ValueError(f"{name} must hold {sorted(needed)} in braces, it holds {sorted(found)}")
        return self


class LabelWording(Wording):
    """Words whose answers are labels, from worst to best. `prefix` is what the answer begins with, before the label."""

    labels: tuple[str, ...] = Field(min_length=2)
    prefix: str = ""

    @model_validator(mode="after")
    def _labels(self) -> LabelWording:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must differ, got {list(self.labels)}")
        return self

    def check(self, backend: Backend) -> None:
        """Raises ValueError where the backend cannot answer with these labels."""
        backend.check_labels(self.labels)
        if self.prefix and not getattr(backend, "takes_prefix", False):
            raise ValueError(
                f"question set {self.version} has the prefix {self.prefix!r}, and this backend cannot begin an answer; "
                "leave the prefix out"
            )


class QuestionSet(LabelWording):
    """Questions about each candidate, one a dimension."""

    places = {
        "shared": ({"instruction", "source"}, {"criteria"}),
        "candidate": ({"edited"}, set()),
        "criteria": ({"criteria"}, set()),
    }

    shared: str
    candidate: str
    questions: dict[str, str] = Field(min_length=1)
    criteria: str | None = None

    def prompt(
        self, instruction: str, source: Image.Image, edited: Sequence[Image.Image], criteria: str = ""
    ) -> Prompt:
        """All questions about all candidates of one source; answers come candidate by candidate."""
        extra = optional(self.criteria, criteria=criteria)
        questions = tuple(Prompt((Fixed(text.strip()),), answer=self.prefix) for text in self.questions.values())
        branches = tuple(Prompt(fill(self.candidate, edited=image), questions) for image in edited)
        return Prompt(fill(self.shared, instruction=instruction, source=source, criteria=extra), branches)


Kind = TypeVar("Kind", bound=Wording)


def question_names(kind: str = "expected") -> list[str]:
    """Names of the bundled question sets of a way of judging."""
    return sorted(path.stem for path in (_FOLDER / kind).glob("*.yaml"))


def load_questions(name: str | Path) -> QuestionSet:
    """A bundled set for expected scores by name, or one of your own by the path of its YAML file. Raises ValueError."""
    return load_wording(QuestionSet, "expected", name)


def load_wording(model: type[Kind], kind: str, name: str | Path) -> Kind:
    """A bundled set of a kind by name, or one of your own by the path of its YAML file. Raises ValueError."""
    path = _FOLDER / kind / f"{name}.yaml"
    if str(name) not in question_names(kind):
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            from mmreward.reward import unknown

            raise unknown("question set", str(name), question_names(kind))
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return model.model_validate(values)
    except OSError as error:
        raise ValueError(f"question set {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"question set {path} is not YAML: {error}") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'set'}: {p['msg']}" for p in error.errors())
        raise ValueError(f"question set {path}: {problems}") from None


def fill(text: str, **places: str | Image.Image | tuple[Piece, ...]) -> tuple[Piece, ...]:
    """The text as pieces. What fills a place is an image, text of others (quoted as data), or pieces."""
    return tuple(_fill(text, places))


def optional(text: str | None, **places: str) -> tuple[Piece, ...]:
    """The pieces of an optional text, none where the set has no such text or there is nothing to put in."""
    return fill(text, **places) if text and all(places.values()) else ()


def _fill(text: str, places: Mapping[str, str | Image.Image | tuple[Piece, ...]]) -> Iterator[Piece]:
    for i, part in enumerate(re.split(r"\{(\w+)\}", text)):
        if not i % 2:
            if part:
                yield Fixed(part)
            continue
        value = places[part]
        if isinstance(value, tuple):
            yield from value
        else:
            yield value if isinstance(value, Image.Image) else Given(value)
