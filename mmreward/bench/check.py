"""What the doctor finds: one check, its outcome, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Check", "Outcome", "graded"]

Outcome = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """`found` says what was seen, with numbers; `advice` what to do, empty where nothing is to be done, and `command` a
    command that does it. `part` names the member of a combination that was asked, "" for the reward as a whole.
    """

    name: str
    status: Outcome
    found: str
    advice: str = ""
    command: str = ""
    part: str = ""


def graded(name: str, good: bool, found: str, advice: str, *, otherwise: Outcome = "failed") -> Check:
    """A check that is ok where `good`, and `otherwise` with advice where not."""
    return Check(name, "ok", found) if good else Check(name, otherwise, found, advice)
