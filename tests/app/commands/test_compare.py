"""`mmreward compare` as people call it."""

import json

import pytest
from PIL import Image

from app.cli import main


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return exit.value.code or 0, said.out + said.err

    return call


@pytest.fixture
def pairs(tmp_path):
    """Two pairs, the second without its second image. A copy of the source is the better one for `pixels`."""
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{colour}.png")
    row = {"id": "p0", "by": "me", "instruction": "keep it", "source": "red.png", "first": "red.png"}
    rows = [row | {"second": "blue.png"}, row | {"id": "p1"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "pairs.jsonl"


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_preferences_are_written_beside_their_rows(run, pairs, tmp_path, name):
    code, said = run("compare", pairs, "--reward", "pixels", "--out", name)
    assert code == 1 and "1 ok · 1 io_error" in said and "Better: first 1, tie 0, second 0" in said
    assert "edited image missing: the column 'second' is empty" in said
    if name.endswith(".jsonl"):
        first, second = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert (first["first"], first["tie"], first["second"], first["overall"]) == (1, 0, 0, 1)
        assert (first["verdict"], first["consistent"], first["by"], first["id"]) == ("first", None, "me", "p0")
        assert second["status"] == "io_error" and second["first"] is None and "input_second" not in first


def test_columns_of_other_names_and_a_margin(run, pairs, tmp_path):
    (tmp_path / "other.jsonl").write_text(pairs.read_text().splitlines()[0].replace('"first"', '"a"'))
    code, said = run("compare", "other.jsonl", "--map", "first=a", "--reward", "pixels", "--margin", "1")
    assert code == 0 and "Better: first 0, tie 1, second 0" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl", "-r", "pixels"], "there is no file or folder 'nowhere.jsonl'"),
        (["pairs.jsonl", "-r", "pixels", "--map", "second=b"], "b"),
        (["pairs.jsonl", "-r", "pixels", "--map", "edited=b"], "map first and second"),
        (["pairs.jsonl", "-r", "pixls"], "Did you mean 'pixels'"),
    ],
)
def test_wrong_calls_say_what_is_wrong(run, pairs, arguments, message):
    code, said = run("compare", *arguments)
    assert code == 2 and message in said
