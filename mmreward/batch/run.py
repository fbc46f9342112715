"""Scoring rows: the one path that one edit and a million take."""

__all__ = ["Scored", "score_rows"]

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from mmreward.batch.rows import Row
from mmreward.edit import Edit, ImageError
from mmreward.reward import Reward, scores_of
from mmreward.score import Score


@dataclass(frozen=True)
class Scored:
    """A row with its score. `row` has no images any more, since a table may hold gigabytes of them. `columns` are
    written beside the score.
    """

    row: Row
    score: Score
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Item:
    row: Row
    edit: Edit | None
    """None for a row that could not be read."""


def score_rows(
    rows: Iterable[Row], reward: Reward, batch_size: int = 32, warn: Callable[[str], None] = warnings.warn
) -> Iterator[Scored]:
    """Each row with its score, in order. A row that could not be read has the status `io_error`.

    `batch_size` rows are handed to the reward at once, and their images are held as long. A reward that compares the
    candidates of a group (`needs_group`) gets groups whole: a group is a run of consecutive rows with equal
    `Edit.group`, which rows that cannot be opened do not end, and a batch is then longer than `batch_size` where one
    group is. A group that is met again after another is scored as a group of its own, and `warn` is called with how
    many there were. Raises ValueError for a reward that returns another number of scores than it was given edits.
    """
    items = (_Item(row, row.edit() if row.error is None else None) for row in rows)
    for batch in _whole_groups(items, batch_size, warn) if reward.needs_group else _batches(items, batch_size):
        edits = [item.edit for item in batch if item.edit is not None]
        scores = iter(scores_of(reward, edits) if edits else [])
        for item in batch:
            failed = None if item.row.error is None else Score.failed("io_error", item.row.error)
            yield Scored(replace(item.row, images={}), failed or next(scores))


def _batches(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    while batch := list(islice(items, size)):
        yield batch


def _whole_groups(items: Iterator[_Item], size: int, warn: Callable[[str], None]) -> Iterator[list[_Item]]:
    """Batches of whole groups: about `size` rows, more where a group has more; a batch has no group twice."""
    batch: list[_Item] = []
    in_batch: set[str] = set()
    seen: set[int] = set()
    again = 0
    for group, members in _groups(items, size):
        if batch and (len(batch) + len(members) > size or group in in_batch):
            yield batch
            batch, in_batch = [], set()
        batch += members
        if group is not None:
            in_batch.add(group)
            number = int(group[:16], 16)  # a number takes half the memory of its text
            again += number in seen
            seen.add(number)
    if batch:
        yield batch
    if again:
        warn(
            f"{again} groups (candidates of one source and instruction) came again after rows of another group, and "
            "were compared with their neighbours alone; sort the table so that candidates stand together"
        )


def _groups(items: Iterator[_Item], size: int) -> Iterator[tuple[str | None, list[_Item]]]:
    """Runs of equal groups, with the rows that have none among them: those cannot be opened. `size` of these without a
    group beside them are handed on, since there may be a million.
    """
    group, members = None, list[_Item]()
    for item in items:
        its_group = _group(item.edit)
        ends = group is not None and its_group is not None and its_group != group
        if ends or (group is None and len(members) >= size):
            yield group, members
            group, members = None, []
        group = group or its_group
        members.append(item)
    if members:
        yield group, members


def _group(edit: Edit | None) -> str | None:
    try:
        return edit.group if edit is not None else None
    except ImageError:
        return None
