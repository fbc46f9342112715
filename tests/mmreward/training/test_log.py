"""The log of a run: strict JSON, whole lines, and cut back on resume."""

import json
import math

from mmreward.training import read_log
from mmreward.training.log import JsonlLog


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_a_log_has_no_nan_at_any_depth_and_one_line_an_entry(tmp_path):
    entries = [
        {"step": 1, "loss": math.nan, "dims": {"quality": math.inf, "kept": [1.0, math.nan]}},
        {"step": 2, "text": "a\u2028b\u0085c 猫"},
    ]
    log = JsonlLog(tmp_path / "log.jsonl")
    for entry in entries:
        log.write(entry)
    log.close()
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    first, second = [json.loads(line, parse_constant=refuse) for line in lines]
    assert first == {"step": 1, "loss": None, "dims": {"quality": None, "kept": [1.0, None]}}
    assert second == entries[1] and read_log(tmp_path / "log.jsonl") == [first, second]


def test_a_resumed_log_is_cut_back_and_keeps_its_texts(tmp_path):
    log = JsonlLog(tmp_path / "log.jsonl")
    for step in (1, 2, 3):
        log.write({"step": step, "text": "a\u2028b"})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 4, "cut')
    JsonlLog(tmp_path / "log.jsonl", resumed_step=2).close()
    assert read_log(tmp_path / "log.jsonl") == [{"step": step, "text": "a\u2028b"} for step in (1, 2)]
