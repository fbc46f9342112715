"""Ctrl-C at any moment of a training run: it ends within seconds, in a few words, and says what there is to go on from.

The signal goes to all processes of the group, as a terminal's does: compilers that were started get it too.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmreward.training import compiled

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import mmreward.__main__ as program
first_step = program._find_own_packages
program._find_own_packages = lambda: (print("here", flush=True), first_step())
program.main()
"""
"""The command, which says when it has begun: before that, a signal is for Python's own start."""
CHEAP = ("roles.reward=pixels", "roles.monitor=target", "roles.final=null", "rollout.groups=2", "rollout.members=2")
SECONDS = 15
"""On a busy machine; a compilation takes ten times as long."""


class Run:
    """`mmreward train grpo-tiny` in a process group of its own."""

    def __init__(self, folder: Path, *changes: str) -> None:
        self.folder, self.out = folder, folder / "runs" / "one"
        settings = [word for change in (*CHEAP, *changes) for word in ("--set", change)]
        self.errors = folder / "errors.txt"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
        with self.errors.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "train", "grpo-tiny", "--out", str(self.out), *settings],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=stream,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def wait_for(self, moment: Callable[[], bool]) -> None:
        until = time.monotonic() + 240
        while not moment():
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < until, self.errors.read_text()
            time.sleep(0.05)

    def interrupt(self) -> str:
        """What it says after Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            assert self.process.wait(SECONDS) == 130
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        said = self.errors.read_text()
        assert "Traceback" not in said and "bug" not in said and len(said.splitlines()) < 8, said
        return said

    def steps(self) -> int:
        log = self.out / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
        return sum(line["kind"] == "train" for line in lines)


def test_at_the_start(tmp_path):
    run = Run(tmp_path)
    run.process.stdout.readline()
    assert run.interrupt() == "mmreward: stopped\n"


def test_while_libraries_load(tmp_path):
    run = Run(tmp_path)
    maps = Path(f"/proc/{run.process.pid}/maps")
    if not maps.is_file():
        pytest.skip("no /proc here, which says when torch is loaded")
    run.wait_for(lambda: "libtorch" in maps.read_text())
    assert run.interrupt() == "mmreward: stopped\n" and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_while_the_network_compiles(tmp_path):
    if compiled.lacking():
        pytest.skip(f"{compiled.lacking()} not found")
    run = Run(tmp_path)
    run.wait_for(lambda: any((tmp_path / "compiled").rglob("*.cpp")))
    said = run.interrupt()
    assert "compiling the network (once, about a minute)" in said
    assert "there is nothing to go on from" in said and not (tmp_path / "runs").exists()
    assert shlex.split(said.splitlines()[-1])[:3] == ["mmreward", "train", "grpo-tiny"]


@pytest.mark.slow
def test_in_an_iteration(tmp_path):
    run = Run(tmp_path, "loop.compile=false")
    run.wait_for(lambda: run.steps() >= 2)
    said = run.interrupt()
    assert "Stopped; the checkpoint of step" in said and list(run.out.glob("checkpoint-*"))
    assert shlex.split(said.splitlines()[-1]) == ["mmreward", "train", "--resume", "--out", str(run.out)]
