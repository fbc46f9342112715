"""Where a run says how it goes: `log.jsonl`, trackers, a progress line with the time left, and after each evaluation
the verdict on the reward (see `editing.alarm`). In several processes only the first one speaks.
"""

__all__ = ["Journal"]

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from editing.alarm import Verdict, check
from editing.trackers import Trackers
from mmreward.training import JsonlLog, Progress, read_log

Listener = Callable[[dict[str, Any]], None]


class Journal:
    """Opened with `with`; `speaks` says whether this process is the one.

    Args:
        resumed: the step of the checkpoint that the run goes on from, or None.
        listener: called with each entry after it is written.
        win_rates: whether the reward is one.
    """

    def __init__(
        self,
        folder: Path,
        trackers: Sequence[str],
        resumed: int | None,
        listener: Listener | None,
        speaks: bool,
        win_rates: bool = False,
    ) -> None:
        self.speaks, self.listener, self._path = speaks, listener, folder / "log.jsonl"
        self.win_rates = win_rates
        self.verdict: Verdict | None = None
        """That of the last evaluation."""
        self._open = ExitStack()
        if speaks:
            self._trackers = Trackers.open(trackers, folder, resumed)
            self._open.callback(self._trackers.close)
            self._log = JsonlLog(self._path, resumed)
            self._open.callback(self._log.close)
            self._progress = self._open.enter_context(Progress("training"))

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def write(self, entry: dict[str, Any]) -> None:
        """One line of the log; one of the monitor gets its verdict."""
        if not self.speaks:
            return
        if entry.get("kind") == "monitor":
            self.verdict = check([*self.entries(), entry], self.win_rates)
            entry = {**entry, "verdict": {"kind": self.verdict.kind, "why": self.verdict.why}}
        self._log.write(entry)
        self._trackers.write(entry)
        if self.listener:
            self.listener(entry)
        if self.verdict and self.verdict.alarm and entry.get("kind") == "monitor":
            self.say(self.verdict.why)

    def entries(self) -> list[dict[str, Any]]:
        """What was written so far."""
        return read_log(self._path) if self.speaks else []

    def say(self, text: str) -> None:
        """One line for people."""
        if self.speaks:
            self._progress.say(text)

    def conclude(self) -> None:
        """At the end of a run: where nobody can tell whether the reward was gamed, that is said."""
        if self.verdict and self.verdict.kind == "unknown":
            self.say(f"cannot tell whether the reward was gamed: {self.verdict.why}")

    def progress(self, fraction: float, seconds: float, text: str) -> None:
        """Show that `fraction` of the run is done after `seconds`."""
        if self.speaks:
            self._progress.update(min(fraction, 1.0), seconds, text)
