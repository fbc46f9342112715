"""Signals in a training run: the step in progress ends first, unless there is nothing to lose or it is asked again."""

import os
import signal
import threading

import pytest

from mmreward.training import LoopConfig, Loss, fit
from mmreward.training import stop as stop_module
from mmreward.training.stop import is_interrupt, stop_signal


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_its_echo_too(number, capfd):
    with stop_signal() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop.is_set()
    assert capfd.readouterr().err.count("Stopping when this step is done") == 1
    assert signal.getsignal(number) is not stop.handle


def test_a_second_one_ends_at_once(monkeypatch):
    monkeypatch.setattr(stop_module, "_ECHO", 0.0)
    with pytest.raises(KeyboardInterrupt), stop_signal():
        interrupt()
        interrupt()
        pytest.fail("the second signal did nothing")


def test_where_nothing_is_lost_the_first_ends_at_once():
    with pytest.raises(KeyboardInterrupt), stop_signal() as stop:
        with stop.at_once(False):
            pass
        with stop.at_once():
            interrupt()
            pytest.fail("the signal did nothing")


def test_one_that_came_before_ends_it_on_entry():
    with pytest.raises(KeyboardInterrupt), stop_signal() as stop:
        interrupt()
        with stop.at_once(False):
            pass
        with stop.at_once():
            pytest.fail("it went on")


def test_other_threads_have_no_signals():
    seen = []

    def run():
        with stop_signal() as stop, stop.at_once():
            seen.append(stop.is_set())

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False] and signal.getsignal(signal.SIGINT) is before


class CompileError(Exception):
    """As torch._inductor has them."""

    __module__ = "torch._inductor.exc"


def wrapped() -> Exception:
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RuntimeError("a library's own") from None
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "known"), [(CompileError("g++: Interrupt"), True), (wrapped(), True), (ValueError("mine"), False)]
)
def test_what_a_signal_becomes_in_a_library_is_known_after_a_signal_only(error, known):
    assert is_interrupt(error) == known
    with pytest.raises(type(error)), stop_signal():
        raise error
    with pytest.raises(KeyboardInterrupt if known else type(error)), stop_signal():
        interrupt()
        raise error


def test_a_circle_of_causes_ends():
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert not is_interrupt(first)


def test_the_first_step_of_a_run_is_not_waited_for(tmp_path):
    import torch

    def loss(module, batch):
        interrupt()
        pytest.fail("the first step went on")
        return Loss(module(batch).sum())

    config = LoopConfig(steps=3, lr=1e-3, autocast="no")
    with pytest.raises(KeyboardInterrupt):
        fit(torch.nn.Linear(2, 1), lambda step: torch.ones(1, 2), loss, config, tmp_path)
    assert not list(tmp_path.glob("checkpoint-*"))
