"""What a server answered: a chat completion of the documented form, read strictly, or the reason why there is none.

Nothing is guessed. Log-probabilities that were asked for and did not come, that are no numbers, or that leave too much
open about labels which are not listed, are failures. What a server says when it fails is read by `openai_errors`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from mmreward.judge.backends.backend import Text
from mmreward.judge.labels import Answer, failed
from mmreward.score import Status

__all__ = ["Completion", "Reply", "answer_of", "read", "short", "text_of"]

_UNSEEN = 0.05
"""Most probability that labels outside of the listed tokens may hold together; they count as 0."""

_BLANKS = " \t\r\n\u0120\u2581"
"""What is stripped from a token: blanks, and the signs that stand for one in vocabularies."""

_TEXT_PARTS = ("text", "output_text")

_FILTERED = ("content_filter", "safety", "prohibited_content", "recitation")
"""Reasons for an end, in lower case, that are a filter's."""

_LONG = 300


class _Token(BaseModel):
    token: str
    logprob: float


class _Position(_Token):
    top_logprobs: list[_Token] = Field(default_factory=list)


class _Logprobs(BaseModel):
    content: list[_Position] | None = None


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        """Content in parts is the text of its parts; what a model thought before is no part of its answer."""
        if not isinstance(content, list):
            return content
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
        texts = [part for part in parts if isinstance(part, dict) and part.get("type") in _TEXT_PARTS]
        return "".join(part["text"] for part in texts if isinstance(part.get("text"), str))


class _Choice(BaseModel):
    message: _Message
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None


class Completion(BaseModel):
    """The parts of a chat completion that are used."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None

    @property
    def listed(self) -> list[_Token]:
        """The first token's alternatives, with the token itself, each once."""
        logprobs = self.choices[0].logprobs
        if logprobs is None or not logprobs.content:
            return []
        first = logprobs.content[0]
        others = first.top_logprobs
        return others if any(one.token == first.token for one in others) else [first, *others]


@dataclass(frozen=True)
class Reply:
    """A completion, or a status other than "ok" with the reason."""

    completion: Completion | None = None
    status: Status = "ok"
    error: str | None = None

    @property
    def prompt_tokens(self) -> int | None:
        return self.completion.usage.prompt_tokens if self.completion and self.completion.usage else None


def read(text: str) -> Reply:
    """The body of a response with status 200."""
    try:
        return Reply(Completion.model_validate_json(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        problem = f"{where}: {first['msg']}" if where else first["msg"]
        return Reply(status="io_error", error=f"the server's answer is not a chat completion ({problem})")


def answer_of(reply: Reply, labels: Sequence[str]) -> Answer:
    """Probabilities of labels as the first token of an answer. A label is each token that reads like it, stripped."""
    refusal = _refusal(reply)
    if refusal:
        return failed(*refusal)
    listed = reply.completion.listed if reply.completion else []
    if not listed:
        return failed(
            "parse_error",
            "the server answered without the log-probabilities that were asked for; ask a server that gives them "
            "(vLLM, SGLang), or judge with ?way=rubric, which reads text",
        )
    chances = [math.exp(min(one.logprob, 1.0)) for one in listed]
    total = sum(chances)
    if not total <= 1.01:  # also for NaN
        return failed("parse_error", f"the server's log-probabilities are none: their probabilities sum to {total:.3g}")
    names = [one.token.strip(_BLANKS) for one in listed]
    found = [sum(p for name, p in zip(names, chances) if name == label.strip()) for label in labels]
    missing = [label for label in labels if label.strip() not in names]
    unseen = min(max(1 - total, 0.0), len(missing) * min(chances))
    if unseen > _UNSEEN:
        return failed(
            "parse_error",
            f"the labels {', '.join(missing)} are not among the {len(listed)} tokens that the server lists, and could "
            f"hold {unseen:.2g} of the probability; let it list more (?top=20; vLLM: --max-logprobs 20)",
        )
    return Answer(tuple(found), sum(found))


def text_of(reply: Reply) -> Text:
    """What the model wrote."""
    refusal = _refusal(reply)
    if refusal or reply.completion is None:
        status, error = refusal or ("io_error", "no answer")
        return Text(status=status, error=error)
    choice = reply.completion.choices[0]
    return Text(choice.message.content or "", finished=choice.finish_reason != "length")


def _refusal(reply: Reply) -> tuple[Status, str] | None:
    """Why there is no answer, None where there is one."""
    if reply.completion is None:
        return reply.status, reply.error or "no answer"
    choice = reply.completion.choices[0]
    if choice.message.refusal:
        return "refused", f"the model refuses: {short(choice.message.refusal)}"
    if (choice.finish_reason or "").lower() in _FILTERED:
        return "refused", "the server's content filter stopped the answer"
    return None


def short(text: str) -> str:
    """On one line, and not longer than a reason should be."""
    text = " ".join(text.split())
    return text if len(text) <= _LONG else text[:_LONG] + " …"
