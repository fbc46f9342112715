"""What a backend is: where a judge's model runs, in this process or behind a server.

    backend.probabilities(prompts, labels)     # for each prompt, an Answer for each leaf
    backend.generate(prompts, Sampling(...))   # for each prompt, for each leaf, a Text for each pass

A backend knows no question and no score. Neither method raises for what one row did wrong (an image that does not fit,
a server that fails): that row's answer has a status. Wrong labels are the caller's mistake: `check_labels` raises.
"""

from __future__ import annotations

__all__ = ["Backend", "Sampling", "Text"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mmreward.judge.labels import Answer
from mmreward.judge.prompt import Prompt
from mmreward.score import Status


@dataclass(frozen=True)
class Sampling:
    """How text is written. Pass number i uses the seed `seed + i`; temperature 0 is greedy: one pass is enough then."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    passes: int = 1
    schema: dict[str, Any] | None = None
    """JSON schema that the text must follow, for backends that can constrain decoding; others ignore it."""
    top_k: int | None = None
    """Only the so many most probable tokens can be drawn."""


@dataclass(frozen=True)
class Text:
    """What the model wrote, or a status other than "ok" with the reason. `finished` is False where it was cut off by
    `max_new_tokens`.
    """

    text: str = ""
    finished: bool = True
    status: Status = "ok"
    error: str | None = None


class Backend(Protocol):
    """`describe` (backend, model, revision, dtype, pixel budget, …) goes into every score's provenance.

    A backend may have three things more: `takes_prefix`, True where it goes on from the beginning of an answer,
    `shown_size(width, height)`, what becomes of an image of that size as far as it is known, and
    `misfit(width, height)`, the `Failure` of an image whose size alone says that the model cannot take it, else None.

    Not thread-safe unless it says so: caches change with each call.
    """

    @property
    def describe(self) -> dict[str, Any]: ...

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raises ValueError where the labels cannot be answers of this model."""

    def probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[list[Answer]]: ...

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[list[Text]]]: ...
