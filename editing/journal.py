"""Where a run says how it goes: `log.jsonl`, trackers, a progress line with the time left, and the alarm when the log
looks like that of a gamed reward. In several processes only the first one speaks.
"""

__all__ = ["Journal"]

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from editing.alarm import check
from editing.trackers import Trackers
from mmreward.training import JsonlLog, Progress, read_log

Listener = Callable[[dict[str, Any]], None]


class Journal:
    """Opened with `with`; `speaks` says whether this process is the one.

    Args:
        resumed: the step of the checkpoint that the run goes on from, or None.
        listener: called with each entry after it is written.
    """

    def __init__(
        self, folder: Path, trackers: Sequence[str], resumed: int | None, listener: Listener | None, speaks: bool
    ) -> None:
        self.speaks, self.listener, self._path = speaks, listener, folder / "log.jsonl"
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
        """One line of the log."""
        if not self.speaks:
            return
        self._log.write(entry)
        self._trackers.write(entry)
        if self.listener:
            self.listener(entry)
        if entry.get("kind") == "monitor" and (alarm := check(read_log(self._path))):
            self._progress.say(alarm.text)

    def progress(self, fraction: float, seconds: float, text: str) -> None:
        """Show that `fraction` of the run is done after `seconds`."""
        if self.speaks:
            self._progress.update(min(fraction, 1.0), seconds, text)
