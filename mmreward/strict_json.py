"""JSON that every reader takes: what is not a finite number is null.

`json.dumps` writes NaN and Infinity, which are no JSON; strict readers refuse the whole file for one of them.
"""

__all__ = ["dumps"]

import base64
import json
import math
from collections.abc import Mapping, Set
from typing import Any


def dumps(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON text; NaN and infinities, at any depth, become null. Arrays and numbers of numpy become lists and
    numbers, bytes become base64, and what JSON does not know else (paths, dates) its text.

    >>> dumps({"overall": float("nan"), "id": "a"})
    '{"overall": null, "id": "a"}'
    """
    plain = _plain(value)
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, indent=indent)
    # Half of a surrogate pair is no text that a file could hold; JSON has an escape for it.
    return text if _encodes(text) else json.dumps(plain, allow_nan=False, indent=indent)


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | Set):
        return [_plain(item) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)
