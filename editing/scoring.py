"""The reward at work in a run: the scores of an iteration from all processes, and what becomes of failures.

With `loop.overlap` a piece of the samples is scored in a thread while the next piece is sampled; no update comes
between them, so all samples of an iteration come from the same weights. Sampling is in the same batches as without. The
reward sees the pieces one after the other, whole groups in each: one that gives an edit the same score in any company
gives the same bits. This pays where the judge has a server or a device of its own.
"""

__all__ = ["Behind", "Judged", "Scoring", "all_scores"]

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editing.advantage import Advantages, advantages, repeat_noise
from editing.algorithms.algorithm import Needs
from editing.collect import Batch, Clock, OnPiece
from editing.parts import parts_of
from editing.processes import Processes
from editing.recipe import Recipe
from editing.unscored import Unscored
from editing.winrate import judge_of
from mmreward.edit import Edit
from mmreward.reward import Reward
from mmreward.score import Score
from mmreward.training import TrainingError


@dataclass(frozen=True)
class Judged:
    """The scores of an iteration, of all processes, in the order of the groups."""

    scores: list[Score]
    values: Tensor
    """[N], `overall`, NaN where there is none."""
    groups: list[str]
    signal: Advantages


class Behind:
    """Scores one piece after another in a thread, behind the back of whoever makes the next."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self._thread = ThreadPoolExecutor(1, "reward")
        self._pieces: list[Future[list[Score]]] = []

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def submit(self, edits: Sequence[Edit]) -> None:
        self._pieces.append(self._thread.submit(self.reward.score, edits))

    def scores(self) -> list[Score]:
        """Of all pieces, in their order; waits for the last."""
        return [score for piece in self._pieces for score in piece.result()]


class Scoring:
    """The reward of a run and what is remembered of it: repeat noise, recent failures, refusals."""

    def __init__(self, reward: Reward, recipe: Recipe, needs: Needs, processes: Processes) -> None:
        self.reward, self.recipe, self.processes = judge_of(reward, needs), recipe, processes
        self.parts = parts_of(self.reward, recipe.advantage)
        self.noise: float | None = None
        self.failures: deque[list[int]] = deque(maxlen=10)
        self.unscored = Unscored()

    def sampled(self, sample: Callable[[OnPiece | None], Batch], clock: Clock) -> tuple[Batch, list[Score]]:
        """What `sample` makes, and the scores of this process's edits."""
        if not self.recipe.loop.overlap:
            batch = sample(None)
            with clock.part("reward"):
                return batch, list(self.reward.score(batch.edits))
        with Behind(self.reward) as behind:
            batch = sample(behind.submit)
            with clock.part("reward"):
                return batch, behind.scores()

    def judge(self, batch: Batch, mine: Sequence[Score]) -> Judged:
        """Advantages over the groups of all processes, from the scores of this one's edits; counts what failed."""
        scores = all_scores(self.processes, mine)
        groups = [name for names in self.processes.gather([edit.group for edit in batch.edits]) for name in names]
        values = _overall(scores)
        if self.noise is None:
            self.noise = repeat_noise(values, self._again(batch))
        self._count_failures(scores)
        parts = self.parts.values(scores) if self.parts else None
        signal = advantages(values, groups, self.recipe.advantage, self.noise, parts)
        return Judged(scores, values, groups, signal)

    def _again(self, batch: Batch) -> Tensor:
        """[N], all edits scored once more, in the opposite order."""
        again = _overall(self.reward.score(batch.edits[::-1])).flip(0)
        return torch.tensor(
            [value for values in self.processes.gather(again.tolist()) for value in values], dtype=torch.float64
        )

    def _count_failures(self, scores: Sequence[Score]) -> None:
        self.failures.append([sum(not score.ok for score in scores), len(scores)])
        failed, total = (sum(column) for column in zip(*self.failures, strict=True))
        if failed > self.recipe.loop.max_failures * total:
            first = next(score for score in scores if not score.ok) if self.failures[-1][0] else None
            reason = f"; the last: {first.status}, {first.error}" if first else ""
            raise TrainingError(
                f"{failed} of the last {total} edits have no score, more than the share that loop.max_failures allows "
                f"({self.recipe.loop.max_failures:g}){reason}"
            )

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"noise": self.noise, "failures": list(self.failures), "unscored": list(self.unscored.state)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.noise = state["noise"]
        self.failures.extend(state["failures"])
        self.unscored = Unscored(state.get("unscored", ()))


def all_scores(processes: Processes, mine: Sequence[Score]) -> list[Score]:
    """The scores of all processes, without rationale and provenance."""
    if processes.size == 1:
        return list(mine)
    return [Score(**row) for rows in processes.gather([_plain(score) for score in mine]) for row in rows]


def _plain(score: Score) -> dict[str, Any]:
    numbers = {name: {k: float(v) for k, v in getattr(score, name).items()} for name in ("dims", "raw")}
    return {"overall": float(score.overall), "status": score.status, "error": score.error, **numbers}


def _overall(scores: Sequence[Score]) -> Tensor:
    return torch.tensor([score.overall for score in scores], dtype=torch.float64)
