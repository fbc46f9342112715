"""One event loop and one HTTP client of a server, in a thread of their own, for as long as the server's object lives.

A client keeps its connections (and their TLS) between batches, which it cannot do when each batch has a loop of its
own. The thread starts with the first request, again in a process that was forked, and ends when the owner is garbage or
the program ends.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["ClientLoop", "Session"]

T = TypeVar("T")

_WORKERS = min(32, (os.cpu_count() or 1) + 4)
_PATIENCE = 5.0
"""Seconds that the end of the program waits for the thread."""


@dataclass(frozen=True)
class Session:
    """What a request needs: the `client`, and one of the `slots` for those that may be under way."""

    client: AsyncOpenAI
    slots: asyncio.Semaphore


@dataclass(frozen=True)
class _Running:
    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    session: Session
    end: asyncio.Event
    process: int


class ClientLoop:
    """`make_client` is called in the loop; `concurrency` requests may be under way at once, whoever sends them."""

    def __init__(self, make_client: Callable[[], AsyncOpenAI], concurrency: int) -> None:
        self._make_client, self._concurrency = make_client, concurrency
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def run(self, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """The result of `work` in the loop. The caller waits, in whatever thread; interrupted, it ends the work."""
        running = self._started()
        future = asyncio.run_coroutine_threadsafe(work(running.session), running.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _started(self) -> _Running:
        with self._lock:
            running = self._running
            if running is None or running.process != os.getpid() or not running.thread.is_alive():
                started: Future[_Running] = Future()
                work = (self._make_client, self._concurrency, started)
                threading.Thread(target=_serve, args=work, name="mmreward-server", daemon=True).start()
                running = self._running = started.result()
                weakref.finalize(self, _stop, running)
            return running


def _serve(make_client: Callable[[], AsyncOpenAI], concurrency: int, started: Future[_Running]) -> None:
    # By hand what asyncio.run does: its end starts a thread for the end of the workers, which a program that ends may
    # not from Python 3.12 on.
    loop = asyncio.new_event_loop()
    workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="mmreward-images")
    loop.set_default_executor(workers)
    try:
        loop.run_until_complete(_live(make_client, concurrency, started))
        loop.run_until_complete(loop.shutdown_asyncgens())
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)
    finally:
        workers.shutdown(wait=False, cancel_futures=True)
        loop.close()


async def _live(make_client: Callable[[], AsyncOpenAI], concurrency: int, started: Future[_Running]) -> None:
    end, thread, loop = asyncio.Event(), threading.current_thread(), asyncio.get_running_loop()
    async with make_client() as client:
        session = Session(client, asyncio.Semaphore(concurrency))
        started.set_result(_Running(thread, loop, session, end, os.getpid()))
        await end.wait()
        unfinished = asyncio.all_tasks() - {asyncio.current_task()}
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


def _stop(running: _Running) -> None:
    if running.process != os.getpid() or running.loop.is_closed():
        return
    running.loop.call_soon_threadsafe(running.end.set)
    if threading.current_thread() is not running.thread:
        running.thread.join(_PATIENCE)
