"""`mmreward doctor` as people call it: what it prints, and its exit codes."""

import pytest

from app.cli import main


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")

    def call(*arguments):
        with pytest.raises(SystemExit) as exit:
            main(["doctor", *arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return exit.value.code or 0, said.out + said.err

    return call


def test_a_reward_of_pixels_has_warnings_and_no_failure(run):
    code, said = run("--reward", "pixels")
    assert code == 0 and "right edits" in said and "warning" in said and "Do not train on this reward alone" in said
    assert "an untouched copy scores up to 1.000" in said


def test_it_is_read_at_80_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, said = run("--reward", "pixels")
    assert max(map(len, said.splitlines())) <= 80 and "…" not in said


def test_a_failed_check_is_exit_code_1(run):
    code, said = run("--reward", "openai:http://127.0.0.1:9/v1#m")
    assert code == 1 and "1 failed" in said and "no server answers at http://127.0.0.1:9/v1" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reward", "openai:somewhere"], "is written like http://127.0.0.1:8000/v1"),
        (["--reward", "vlm:tinny"], "no folder 'tinny'"),
        ([], "Missing option"),
    ],
)
def test_a_wrong_call_is_exit_code_2(run, arguments, message):
    code, said = run(*arguments)
    assert code == 2 and message in said


def test_help_shows_an_example(run):
    code, said = run("--help")
    assert code == 0 and "mmreward doctor --reward vlm:tiny" in said
