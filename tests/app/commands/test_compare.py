"""`mmreward compare` as people call it."""

import io
import json
import math
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from app.cli import main
from mmreward import Reward, Score
from mmreward.batch.judgements import read_pair_judgements
from mmreward.batch.pairs import compare_rows, read_pairs
from mmreward.preference import Preference


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
    assert "second image missing: the column 'second' is empty" in said
    if name.endswith(".jsonl"):
        first, second = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert list(first)[:13] == ["id", "instruction", "source", "first", "second", "p_first", "p_tie", "both_bad",
                                    "criterion", "rater", "weight", "status", "error"]  # fmt: skip
        assert (first["first"], first["second"], first["p_first"], first["p_tie"]) == ("red.png", "blue.png", 1, 0)
        assert (first["verdict"], first["consistent"], first["by"], first["id"]) == ("first", None, "me", "p0")
        assert (first["rater"], first["criterion"], first["weight"]) == ("pixels", "overall", 1)
        assert (second["status"], second["p_first"], second["second"]) == ("io_error", None, None)
    judgements = read_pair_judgements(tmp_path / name)
    assert [judgement.p_first for judgement in judgements] == [1, None]
    assert Image.open(judgements[0].second).getpixel((0, 0)) == (0, 0, 255)


def test_a_table_that_was_compared_before_keeps_what_was_said(run, pairs, tmp_path):
    run("compare", pairs, "--reward", "pixels", "--out", "one.jsonl")
    code, _ = run("compare", "one.jsonl", "--reward", "pixels", "--margin", "1", "--out", "two.jsonl")
    first = json.loads((tmp_path / "two.jsonl").read_text().splitlines()[0])
    assert (first["p_first"], first["p_tie"], first["input_p_first"], first["input_rater"]) == (0, 1, 1, "pixels")


def test_the_pairs_of_a_pipe(pairs, monkeypatch, capfdbinary):
    class Input:
        buffer = io.BytesIO(pairs.read_bytes())

    monkeypatch.setattr(sys, "stdin", Input)
    monkeypatch.chdir(pairs.parent)
    with pytest.raises(SystemExit):
        main(["compare", "-", "--reward", "pixels", "--out", "-"])
    out, err = capfdbinary.readouterr()
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["p0", "p1"] and b"Better: first 1" in err


def test_a_dimension_in_place_of_the_overall(run, pairs, tmp_path):
    code, said = run("compare", pairs, "--reward", "pixels", "--by", "preservation", "--out", "out.jsonl")
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert (first["p_first"], first["rater"]) == (1, "pixels by preservation")
    code, said = run("compare", pairs, "--reward", "pixels", "--by", "beauty")
    assert code == 2 and "preservation" in said


class Parts(Reward):
    """Dimensions and no one number; redder is better in one, worse in the other."""

    name, dims, has_overall = "parts", ("red", "blue"), False

    def score(self, edits):
        reds = [edit.image("edited").getpixel((0, 0))[0] / 255 for edit in edits]
        return [Score(math.nan, {"red": red, "blue": 1 - red}, has_overall=False) for red in reds]


def test_a_reward_without_an_overall_needs_a_dimension(run, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("app.commands.compare.load_reward", lambda spec: Parts())
    code, said = run("compare", pairs, "--reward", "parts", "--out", "out.jsonl")
    assert code == 2 and "--by DIMENSION" in said and not (tmp_path / "out.jsonl").exists()
    for by, expected in {"red": 1, "blue": 0}.items():
        run("compare", pairs, "--reward", "parts", "--by", by, "--out", "out.jsonl", "--overwrite")
        assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["p_first"] == expected


class Left(Parts):
    """Compares by itself, and always prefers the first."""

    def compare(self, pairs):
        return [Preference(0.9, 0.1, consistent=True, rationale="left") for _ in pairs]


def test_a_judge_that_compares_needs_no_overall(run, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("app.commands.compare.load_reward", lambda spec: Left())
    code, said = run("compare", pairs, "--reward", "left", "--out", "out.jsonl")
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert (first["p_first"], first["p_tie"], first["consistent"], first["rationale"]) == (0.9, 0.1, True, "left")
    assert "both orders agreed in 1 of 1" in said


def test_a_comparer_that_miscounts_is_an_error_that_names_it(pairs):
    class Short(Left):
        def compare(self, pairs):
            return []

    with pytest.raises(ValueError, match="parts returned 0 preferences for 1 pairs"):
        list(compare_rows(read_pairs(pairs), Short()))


def test_images_inside_a_table_need_a_table_that_holds_them(run, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    image = (tmp_path / "a.png").read_bytes()
    row = {"instruction": "x", "source": image, "first": image, "second": image}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in.parquet")
    code, said = run("compare", "in.parquet", "--reward", "pixels", "--out", "out.jsonl")
    assert code == 2 and "holds its images itself" in said
    assert run("compare", "in.parquet", "--reward", "pixels", "--out", "out.parquet")[0] == 0
    assert pq.read_table(tmp_path / "out.parquet")["second"].to_pylist() == [image]


def test_columns_of_other_names_and_a_margin(run, pairs, tmp_path):
    (tmp_path / "other.jsonl").write_text(pairs.read_text().splitlines()[0].replace('"first"', '"a"'))
    code, said = run("compare", "other.jsonl", "--map", "first=a", "--reward", "pixels", "--margin", "1")
    assert code == 0 and "Better: first 0, tie 1, second 0" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl", "-r", "pixels"], "there is no file or folder 'nowhere.jsonl'"),
        (
            ["pairs.jsonl", "-r", "pixels", "--map", "second=bild"],
            "--map second=bild: pairs.jsonl: unknown column 'bild'",
        ),
        (
            ["other.jsonl", "-r", "pixels"],
            "mmreward: other.jsonl has no column 'first' and no column 'second'; it has: ",
        ),
        (["pairs.jsonl", "-r", "pixels", "--map", "edited=b"], "map first and second"),
        (["pairs.jsonl", "-r", "pixls"], "Did you mean 'pixels'"),
    ],
)
def test_wrong_calls_say_what_is_wrong(run, pairs, tmp_path, arguments, message):
    (tmp_path / "other.jsonl").write_text('{"instruction": "x", "source": "red.png", "left": "red.png"}')
    code, said = run("compare", *arguments)
    assert code == 2 and message in said
