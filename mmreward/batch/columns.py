"""The columns of an input beside a command's own: never in their place, and never over one another."""

__all__ = ["input_columns"]

from collections.abc import Collection, Mapping
from typing import Any


def input_columns(columns: Mapping[str, Any], own: Collection[str]) -> dict[str, Any]:
    """`columns` of an input, to be written beside the columns `own`: one whose name is taken is called `input_NAME`,
    with as many `input_` as make it free.

    >>> input_columns({"overall": 0.9, "note": 7}, own={"overall"})
    {'note': 7, 'input_overall': 0.9}
    """
    renamed = {name: value for name, value in columns.items() if name not in own}
    for name, value in columns.items():
        if name in own:
            while name in renamed or name in own:
                name = f"input_{name}"
            renamed[name] = value
    return renamed
