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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from editing.advantage import Advantages, PartValues, advantages, repeat_noise
from editing.algorithms.algorithm import Needs
from editing.collect import Batch, Clock, Made, OnPiece
from editing.parts import parts_of
from editing.processes import Processes
from editing.recipe import Recipe
from editing.scored import scored
from editing.unscored import Unscored
from editing.winrate import judge_of
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


@dataclass(frozen=True)
class RepeatNoise:
    """Standard deviations of a score from one scoring of an edit to the next: of the overall, and of each part that is
    normalised by itself.
    """

    overall: float
    parts: tuple[float, ...] = ()


class Behind:
    """Scores pieces in a worker thread while the next ones are sampled."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self._thread = ThreadPoolExecutor(1, "reward")
        self._pieces: list[Future[list[Score]]] = []

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def submit(self, edits: Sequence[Made]) -> None:
        self._pieces.append(self._thread.submit(scored, self.reward, edits))

    def scores(self) -> list[Score]:
        """Of all pieces, in their order; waits for the last."""
        return [score for piece in self._pieces for score in piece.result()]


class Scoring:
    """The reward of a run and what is remembered of it: repeat noise, recent failures, refusals."""

    def __init__(self, reward: Reward, recipe: Recipe, needs: Needs, processes: Processes) -> None:
        self.reward, self.recipe, self.processes = judge_of(reward, needs), recipe, processes
        self.parts = parts_of(self.reward, recipe.advantage)
        self.noise: RepeatNoise | None = None
        self.failures: deque[list[int]] = deque(maxlen=10)
        self.unscored = Unscored()

    def sampled(self, sample: Callable[[OnPiece | None], Batch], clock: Clock) -> tuple[Batch, list[Score]]:
        """What `sample` makes, and the scores of this process's edits."""
        if not self.recipe.loop.overlap:
            batch = sample(None)
            with clock.part("reward"):
                return batch, scored(self.reward, batch.edits)
        with Behind(self.reward) as behind:
            batch = sample(behind.submit)
            with clock.part("reward"):
                return batch, behind.scores()

    def judge(self, batch: Batch, mine: Sequence[Score]) -> Judged:
        """Advantages over the groups of all processes, from the scores of this one's edits; counts what failed."""
        scores = all_scores(self.processes, mine)
        shares = self.processes.gather([batch.groups, len(batch.made)])
        groups = [name for names, _ in shares for name in names]
        if not any(made for _, made in shares):
            raise TrainingError(f"the editor made none of the {len(scores)} edits of this iteration: {scores[0].error}")
        values = _overall(scores)
        parts = self.parts.values(scores) if self.parts else None
        if self.noise is None:
            self.noise = self._repeat_noise(batch, values, parts)
        self._count_failures(scores)
        if parts:
            parts = replace(parts, noise=torch.tensor(self.noise.parts, dtype=torch.float64))
        signal = advantages(values, groups, self.recipe.advantage, self.noise.overall, parts)
        return Judged(scores, values, groups, signal)

    def _repeat_noise(self, batch: Batch, values: Tensor, parts: PartValues | None) -> RepeatNoise:
        """All edits are scored once more, in the opposite order."""
        again = all_scores(self.processes, scored(self.reward, batch.edits[::-1])[::-1])
        noise = repeat_noise(values, _overall(again))
        if self.parts is None or parts is None:
            return RepeatNoise(noise)
        second = self.parts.values(again).values
        return RepeatNoise(noise, tuple(repeat_noise(*pair) for pair in zip(parts.values.T, second.T, strict=True)))

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
        noise = self.noise and {"overall": self.noise.overall, "parts": list(self.noise.parts)}
        return {"noise": noise, "failures": list(self.failures), "unscored": list(self.unscored.state)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        noise = state["noise"]
        if isinstance(noise, float):  # of an older version, which measured no parts: these are measured again
            noise = None if self.parts else {"overall": noise, "parts": ()}
        self.noise = noise and RepeatNoise(noise["overall"], tuple(noise["parts"]))
        self.failures.extend(state["failures"])
        self.unscored = Unscored(state.get("unscored", ()))


def all_scores(processes: Processes, mine: Sequence[Score]) -> list[Score]:
    """The scores of all processes, without rationale and provenance."""
    if processes.size == 1:
        return list(mine)
    return [_score(row) for rows in processes.gather([_plain(score) for score in mine]) for row in rows]


def _plain(score: Score) -> dict[str, Any]:
    return {
        "overall": float(score.overall),
        "dims": {name: float(value) for name, value in score.dims.items()},
        "status": score.status,
        "error": score.error,
        "raw": {name: float(value) for name, value in score.raw.items()},
        "parts": {name: _plain(part) for name, part in score.parts.items()},
        "has_overall": score.has_overall,
    }


def _score(plain: Mapping[str, Any]) -> Score:
    return Score(**{**plain, "parts": {name: _score(part) for name, part in plain["parts"].items()}})


def _overall(scores: Sequence[Score]) -> Tensor:
    return torch.tensor([score.overall for score in scores], dtype=torch.float64)
