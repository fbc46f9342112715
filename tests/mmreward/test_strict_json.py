"""Strict JSON: no NaN at any depth, and what JSON does not know becomes something that it knows."""

import json
import math
from pathlib import Path

import numpy as np

from mmreward.strict_json import dumps


def strict(text):
    """Parsed by a reader that refuses NaN and Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_is_no_number_is_null_at_any_depth():
    value = {
        "a": math.nan,
        "b": [1.5, math.inf, {"c": (-math.inf, 2)}],
        "d": np.array([1.0, np.nan]),
        "e": np.float32("nan"),
    }
    assert strict(dumps(value)) == {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": [1.0, None], "e": None}


def test_numpy_bytes_paths_and_keys_that_are_no_texts():
    value = {1: np.int64(3), "p": Path("a/b"), "b": b"xyz", "t": True, "n": None, "u": "猫"}
    assert strict(dumps(value)) == {"1": 3, "p": "a/b", "b": "eHl6", "t": True, "n": None, "u": "猫"}
    assert "猫" in dumps(value)
