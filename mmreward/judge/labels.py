"""The labels of an answer as tokens, and an answer as probabilities of labels.

A label is found by its stripped string: "4" stands for every single token that reads "4" or " 4". Each label must have
such a token, and no token may stand for two labels. The probability on all labels is taken of the full vocabulary
(`mass`): where it is small, the model wanted to say something else, and what is left is no answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmreward.score import Failure, Status

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Answer", "LabelIds", "answers", "failed", "failed_by", "find_labels"]


@dataclass(frozen=True)
class Answer:
    """Probabilities of the labels (they sum to `mass`), or a status other than "ok" with the reason."""

    probabilities: tuple[float, ...] = ()
    mass: float = 0.0
    status: Status = "ok"
    error: str | None = None


@dataclass(frozen=True)
class LabelIds:
    """Token ids of each label."""

    ids: tuple[tuple[int, ...], ...]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities [N, labels] from logits [N, vocabulary], by a softmax over the full vocabulary in float32 or
        better.
        """
        import torch

        whole = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
        return torch.stack([whole[:, list(ids)].sum(-1) for ids in self.ids], -1)


def failed(status: Status, error: str) -> Answer:
    return Answer(status=status, error=error)


def failed_by(failure: Failure) -> Answer:
    return Answer(status=failure.status, error=failure.error)


def answers(probabilities: Tensor) -> list[Answer]:
    """One answer for each row of probabilities [N, labels]; non-finite rows are a parse error."""
    return [
        Answer(tuple(row), sum(row))
        if all(map(math.isfinite, row))
        else failed("parse_error", "the model's output is not finite (NaN or infinity)")
        for row in probabilities.double().tolist()
    ]


def find_labels(tokenizer: Any, labels: Sequence[str]) -> LabelIds:
    """The tokens of each label. Raises ValueError where a label is not a single token, or two share one."""
    found: list[tuple[int, ...]] = []
    owner: dict[int, str] = {}
    for label in labels:
        ids = _single_tokens(tokenizer, label)
        if not ids:
            raise ValueError(
                f"label {label!r} is not a single token of this model's vocabulary; use labels that are, such as 0 to 5"
            )
        for one in ids:
            if one in owner:
                raise ValueError(f"labels {owner[one]!r} and {label!r} are the same token of this model")
            owner[one] = label
        found.append(tuple(sorted(ids)))
    return LabelIds(tuple(found))


def _single_tokens(tokenizer: Any, label: str) -> set[int]:
    label, candidates = label.strip(), []
    for text in (label, f" {label}", f"\n{label}"):
        candidates.append(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    named = [tokenizer.convert_tokens_to_ids(name) for name in (label, f"\u2581{label}", f"\u0120{label}")]
    candidates += [[one] for one in named if one is not None and one != tokenizer.unk_token_id]
    return {ids[0] for ids in candidates if len(ids) == 1 and tokenizer.decode(ids).strip() == label}
