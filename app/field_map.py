"""The option `--map FIELD=COLUMN`, which commands that read rows share."""

__all__ = ["field_map"]

from collections.abc import Sequence


def field_map(pairs: Sequence[str]) -> dict[str, str]:
    """Field -> column. Raises ValueError for what is not written FIELD=COLUMN, and for a field that comes twice."""
    mapping: dict[str, str] = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not (field and equals and column):
            raise ValueError(f"--map is written FIELD=COLUMN, for example --map edited=target; got {pair!r}")
        if field in mapping:
            raise ValueError(f"--map names the field {field!r} twice")
        mapping[field] = column
    return mapping
