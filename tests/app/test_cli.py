"""The overview, unknown commands, and what becomes of errors."""

import signal

import pytest

from app import cli


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return int(stopped.value.code or 0)


def test_help_names_every_command_and_exit_code(capsys):
    assert call("--help") == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in cli.COMMANDS)
    codes = said.split("Exit codes:")[1].splitlines()
    assert [int(line.split()[0]) for line in codes if line.strip()] == [0, 1, 2, 3, 130]


@pytest.mark.parametrize(
    ("name", "hint"), [("list", None), ("ls", None), ("rewards", None), ("scor", "score"), ("edits", "edit")]
)
def test_an_unknown_command_gets_a_near_name_or_none(name, hint, capsys):
    assert call(name) == 2
    said = capsys.readouterr().err
    assert "There is: app, compare" in said
    assert f"Did you mean {hint!r}" in said if hint else "Did you mean" not in said


@pytest.fixture
def command(monkeypatch):
    """A command that does what the test says."""
    does = []
    monkeypatch.setitem(cli.COMMANDS, "fake", cli.Command("tests_of_cli:fake", ""))
    monkeypatch.setattr(
        cli, "import_module", lambda name: type("Module", (), {"fake": staticmethod(lambda: does[0]())})
    )
    return does


def interrupted():
    """What a library makes of Ctrl-C."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("numpy could not be imported") from None


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("wrong"), 2, "mmreward: wrong"),
        (FileNotFoundError("no file"), 2, "mmreward: no file"),
        (KeyboardInterrupt(), 130, "mmreward: stopped"),
        (KeyboardInterrupt("stopped after 3"), 130, "mmreward: stopped after 3"),
        (RuntimeError("oh"), 3, "This is a bug in mmreward"),
        (interrupted, 130, "mmreward: stopped"),
    ],
)
def test_errors_become_exit_codes(error, code, said, command, capsys):
    def fail():
        raise error

    before = signal.getsignal(signal.SIGINT)
    command.append(fail if isinstance(error, BaseException) else error)
    assert call("fake") == code
    assert said in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_traceback_where_it_is_asked_for(command, monkeypatch):
    monkeypatch.setenv("MMREWARD_TRACEBACK", "1")
    command.append(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["fake"])
