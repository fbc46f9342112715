"""Outputs: what stands in them, and that they are written whole or not at all."""

import base64
import json
import math
import os
import threading

import numpy as np
import pytest
from pyarrow.parquet import read_table

from mmreward import Score, Spread
from mmreward.batch import STANDARD_OUTPUT, Row, Scored, check_output, read_rows, write_rows
from mmreward.batch import output as module

SCORED = [
    Scored(
        Row("a", {"instruction": "x"}, meta={"task": "add", "overall": 3, "mixed": 1}),
        Score(0.5, {"quality": 0.25}, rationale="ü", spread=Spread("token", 0.1), raw={"logit": 2.0},
              provenance={"model": "m", "shift": np.float32(0.5)}),
    ),
    Scored(Row("b", meta={"task": None, "mixed": "two"}), Score.failed("io_error", "edited image 'b.png' not found")),
]  # fmt: skip


def test_jsonl(tmp_path):
    write_rows(tmp_path / "s.jsonl", SCORED, "vlm:tiny", ["quality", "preservation"])
    first, second = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert list(first)[:10] == ["id", "overall", "quality", "preservation", "status", "error", "rationale", "spread",
                                "spread_kind", "reward"]  # fmt: skip
    assert (first["overall"], first["quality"], first["preservation"], first["spread"]) == (0.5, 0.25, None, 0.1)
    assert first["provenance"] == {"model": "m", "shift": 0.5} and first["raw"] == {"logit": 2.0}
    assert first["task"] == "add" and first["input_overall"] == 3
    assert second["overall"] is None and second["status"] == "io_error" and "b.png" in second["error"]


def test_parquet(tmp_path):
    write_rows(tmp_path / "s.parquet", SCORED, "vlm:tiny", ["quality"])
    table = read_table(tmp_path / "s.parquet")
    first, second = table.to_pylist()
    assert first["overall"] == 0.5 and second["overall"] is None and table["overall"].null_count == 1
    assert json.loads(first["provenance"]) == {"model": "m", "shift": 0.5}
    assert (first["mixed"], second["mixed"]) == ("1", '"two"')  # two types in one column: JSON
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]


def test_all_rows_failed(tmp_path):
    for name in ("s.parquet", "s.jsonl"):
        write_rows(tmp_path / name, SCORED[1:], "pixels", ["quality"])
    assert math.isnan(SCORED[1].score.overall) and read_table(tmp_path / "s.parquet")["quality"].null_count == 1


def test_no_space_left_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "s.jsonl"
    path.write_text("old")

    def half(stream, records, kinds):
        stream.write(b"new, but")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_as_jsonl", half)
    with pytest.raises(OSError, match="No space left"):
        write_rows(path, SCORED, "pixels", ["quality"])
    assert path.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["s.jsonl"]


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "old.jsonl").write_text("old")
    for path, message in {
        tmp_path / "s.txt": "written as .parquet or .jsonl",
        tmp_path / "old.jsonl": "exists; add --overwrite",
        tmp_path / "old.jsonl" / "s.jsonl": "cannot write to the folder",
    }.items():
        with pytest.raises((OSError, ValueError), match=message):
            check_output(path)
    assert check_output(tmp_path / "old.jsonl", overwrite=True)
    assert check_output(tmp_path / "new" / "s.jsonl").parent.is_dir()

    def denied(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.tempfile, "TemporaryFile", denied)
    with pytest.raises(PermissionError, match="cannot write to the folder .*: Permission denied"):
        check_output(tmp_path / "s.jsonl")


def strict(path):
    """Records of a JSONL file, by a reader that knows no NaN."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line, parse_constant=refuse) for line in lines]


ODD = Scored(
    Row("a", {"instruction": "x"}, meta={"psnr": math.inf, "list": [1.0, math.nan], "deep": {"x": np.float32("nan")},
                                         "half": "\ud800", "line": "a\u2028b"}),
    Score(0.5, raw={"logit": math.nan}, provenance={"p": math.nan, "q": [math.inf]},
          parts={"judge": Score(0.25, {"quality": 0.5}, raw={"overall": 17.0, "z": math.nan}),
                 "clip": Score.failed("not_applicable", "no caption")}),
)  # fmt: skip


def test_json_has_no_nan_from_any_field(tmp_path):
    write_rows(tmp_path / "s.jsonl", [ODD], "pixels", ["quality"])
    (row,) = strict(tmp_path / "s.jsonl")
    assert row["psnr"] is None and row["list"] == [1.0, None] and row["deep"] == {"x": None}
    assert row["raw"] == {"logit": None} and row["provenance"] == {"p": None, "q": [None]}
    assert row["line"] == "a\u2028b" and row["half"] == "\ud800"
    write_rows(tmp_path / "s.parquet", [ODD], "pixels", ["quality"])
    (row,) = read_table(tmp_path / "s.parquet").to_pylist()
    assert row["psnr"] is None and row["half"] == "?" and json.loads(row["raw"]) == {"logit": None}


def test_members_of_a_combination_are_a_column(tmp_path):
    for name in ("s.jsonl", "s.parquet"):
        write_rows(tmp_path / name, [ODD, SCORED[1]], "mine.yaml", ["quality"])
    with_parts, without = strict(tmp_path / "s.jsonl")
    assert with_parts["parts"] == {
        "judge": {"overall": 0.25, "dims": {"quality": 0.5}, "raw": {"overall": 17.0, "z": None}, "status": "ok",
                  "error": None},
        "clip": {"overall": None, "dims": {}, "raw": {}, "status": "not_applicable", "error": "no caption"},
    }  # fmt: skip
    assert without["parts"] is None
    rows = read_table(tmp_path / "s.parquet")["parts"].to_pylist()
    assert json.loads(rows[0]) == with_parts["parts"] and rows[1] is None


def test_a_score_without_an_overall_is_null_and_ok(tmp_path):
    score = Score(math.nan, {"quality": 0.25}, has_overall=False)
    write_rows(tmp_path / "s.jsonl", [Scored(Row("a"), score)], "mine", ["quality"])
    (row,) = strict(tmp_path / "s.jsonl")
    assert (row["overall"], row["quality"], row["status"]) == (None, 0.25, "ok")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_no_column_of_the_input_is_lost_however_often_it_is_scored(tmp_path, suffix):
    meta = {"overall": "first", "input_overall": "older", "status": "s", "kept": "k", "task": "t"}
    other = {"input_overall": "older of another row", "input_status": "other"}
    rows = [Scored(Row("a", meta=meta), Score(0.5), {"kept": True}), Scored(Row("b", meta=other), Score(0.25))]
    path = tmp_path / f"s.{suffix}"
    write_rows(path, rows, "pixels", [])
    first, second = strict(path) if suffix == "jsonl" else read_table(path).to_pylist()
    assert (first["overall"], first["status"], first["kept"], first["task"]) == (0.5, "ok", True, "t")
    assert (first["input_overall"], first["input_input_overall"]) == ("older", "first")
    assert (first["input_input_status"], first["input_kept"]) == ("s", "k")
    assert (second["input_overall"], second["input_status"]) == ("older of another row", "other")


def test_a_mixed_column_of_paths_and_images_keeps_both(tmp_path):
    rows = [Scored(Row("a"), Score(0.5), {"target": b"abc"}), Scored(Row("b"), Score(0.5), {"target": "b.png"})]
    write_rows(tmp_path / "s.parquet", rows, "pixels", [])
    cells = read_table(tmp_path / "s.parquet")["target"].to_pylist()
    assert cells == [{"bytes": b"abc", "path": None}, {"bytes": None, "path": "b.png"}]


def test_files_have_the_rights_of_the_users_others_and_nobody_elses_change(tmp_path):
    """The mask is one for the process: setting it, even for a moment, opens the files of other threads to everybody."""
    before = os.umask(0o027)
    try:
        stop, seen = threading.Event(), set()

        def create():
            number = 0
            while not stop.is_set():
                path = tmp_path / f"other-{number % 50}"
                path.unlink(missing_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
                seen.add(path.stat().st_mode & 0o777)
                number += 1

        thread = threading.Thread(target=create)
        thread.start()
        for _ in range(200):
            write_rows(tmp_path / "s.jsonl", SCORED[1:], "pixels", [])
        stop.set()
        thread.join()
        assert seen == {0o640} and (tmp_path / "s.jsonl").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_standard_output_is_jsonl(capfdbinary):
    assert check_output("-") == STANDARD_OUTPUT
    write_rows(STANDARD_OUTPUT, SCORED, "pixels", [])
    lines = capfdbinary.readouterr().out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a", "b"]


def test_a_long_name_can_be_written(tmp_path):
    path = tmp_path / ("n" * 249 + ".jsonl")
    write_rows(path, SCORED, "pixels", [])
    assert path.exists() and len(list(tmp_path.iterdir())) == 1


def test_what_is_written_is_read_again(tmp_path):
    row = Row(
        "a", {"instruction": "x"}, meta={"source": "a.png", "edited": "b.png", "instruction": "x", "psnr": math.nan}
    )
    write_rows(tmp_path / "s.jsonl", [Scored(row, Score(0.5))], "pixels", [])
    (again,) = read_rows(tmp_path / "s.jsonl")
    assert again.error is None and again.meta["psnr"] is None and again.meta["overall"] == 0.5


def test_bytes_of_other_columns_are_base64(tmp_path):
    write_rows(tmp_path / "s.jsonl", [Scored(Row("a", meta={"thumb": b"xyz"}), Score(0.5))], "pixels", [])
    assert base64.b64decode(strict(tmp_path / "s.jsonl")[0]["thumb"]) == b"xyz"
