"""Scoring rows: the one path that one edit and a million take."""

__all__ = ["Scored", "score_rows"]

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from mmreward.batch.rows import Row
from mmreward.reward import Reward
from mmreward.score import Score


@dataclass(frozen=True)
class Scored:
    row: Row
    score: Score


def score_rows(rows: Iterable[Row], reward: Reward, batch_size: int = 32) -> Iterator[Scored]:
    """Each row with its score, in order. A row that could not be read has the status `io_error`.

    `batch_size` rows are handed to the reward at once, and their images are held as long.
    """
    rest = iter(rows)
    while batch := list(islice(rest, batch_size)):
        scores = iter(reward.score([row.edit() for row in batch if row.error is None]))
        for row in batch:
            yield Scored(row, next(scores) if row.error is None else Score.failed("io_error", row.error))
