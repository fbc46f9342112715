"""Ctrl-C and SIGTERM in a training run: the step in progress ends first, where something would be lost otherwise.

    with stop_signal() as stop:
        with stop.at_once():        # nothing to lose yet
            step()                  # compiles for a minute
        while not stop.is_set():
            step()
        save()

A terminal's Ctrl-C reaches the compilers that torch.compile has started as well, and what these die of arrives as an
error of theirs; after a signal it is taken for what it is.
"""

from __future__ import annotations

__all__ = ["Stop", "is_interrupt", "stop_signal"]

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ECHO = 2.0
"""Seconds in which a second signal is taken for the first one again."""
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch")
_SAID = b"\nStopping when this step is done. Ctrl-C again: at once, with the last checkpoint.\n"


class Stop:
    """Whether a signal came, and what it does: nothing but that, or inside `at_once` it ends what is going on."""

    def __init__(self) -> None:
        self._asked: float | None = None
        self._at_once = False

    def is_set(self) -> bool:
        """Whether a signal came."""
        return self._asked is not None

    @contextmanager
    def at_once(self, nothing_to_lose: bool = True) -> Iterator[None]:
        """Inside, a signal raises KeyboardInterrupt then and there; one that came before does so on entry."""
        if nothing_to_lose and self.is_set():
            raise KeyboardInterrupt
        self._at_once = nothing_to_lose
        try:
            yield
        finally:
            self._at_once = False

    def handle(self, number: int, frame: Any) -> None:
        """The handler of the signals. A launcher of several processes passes on what they got already, so that a second
        signal counts after a while only; it raises KeyboardInterrupt wherever the program is.
        """
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
            if self._at_once:
                raise KeyboardInterrupt
            if os.environ.get("RANK", "0") == "0":
                os.write(2, _SAID)
        elif now - self._asked > _ECHO:
            raise KeyboardInterrupt


@contextmanager
def stop_signal() -> Iterator[Stop]:
    """What Ctrl-C and SIGTERM do inside the `with`; in another thread than the main one, nothing."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except Exception as error:
        if stop.is_set() and is_interrupt(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def is_interrupt(error: BaseException) -> bool:
    """Whether an error, after a signal, is what became of the signal: a KeyboardInterrupt that a library wrapped, or a
    compilation whose compiler got the signal too.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, KeyboardInterrupt) or type(link).__module__.startswith(_COMPILERS):
            return True
        link = link.__cause__ or link.__context__
    return False
