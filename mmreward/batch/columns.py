"""The columns of an input beside a command's own: never in their place, and never over one another."""

__all__ = ["input_columns", "input_names"]

from collections.abc import Collection, Iterable, Mapping
from typing import Any


def input_names(names: Iterable[str], own: Iterable[str]) -> dict[str, str]:
    """Column of the input -> its name beside `own` columns: its own where that is free, else `input_NAME`, with as many
    `input_` as make it free. `names` are those of the whole table, so that each column has one name in all rows.

    >>> input_names(["task", "overall", "input_overall"], ["id", "overall"])
    {'task': 'task', 'overall': 'input_input_overall', 'input_overall': 'input_overall'}
    """
    names, own = list(names), set(own)
    taken = {*names, *own}
    result = {}
    for name in names:
        free = name
        if name in own:
            while free in taken:
                free = f"input_{free}"
            taken.add(free)
        result[name] = free
    return result


def input_columns(columns: Mapping[str, Any], own: Collection[str]) -> dict[str, Any]:
    """The one row `columns` by these names.

    >>> input_columns({"overall": 0.9, "note": 7}, own={"overall"})
    {'input_overall': 0.9, 'note': 7}
    """
    names = input_names(columns, own)
    return {names[name]: value for name, value in columns.items()}
