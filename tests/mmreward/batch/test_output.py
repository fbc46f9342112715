"""Outputs: what stands in them, and that they are written whole or not at all."""

import json
import math

import numpy as np
import pytest
from pyarrow.parquet import read_table

from mmreward import Score, Spread
from mmreward.batch import Row, Scored, check_output, write_rows
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

    def half(path, records, dims):
        path.write_text("new, but")
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
