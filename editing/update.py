"""The updates of one iteration: make the algorithm's examples under the present weights, take its loss, step.

Gradients depend neither on the size of the micro-batches nor on the number of processes: the loss of an update is one
weighted mean over its samples and the examples of each (`editing.examples`), whatever pieces it is computed in. Each
process takes those of an update's samples that it made, adds up their gradients, and then all gradients are summed over
the processes, once. (DistributedDataParallel does the same inside the backward pass, but it waits for equally many
passes in every process, and wraps the module that policies are swapped in.) The first update of a run must be
on-policy: a replay has to find the log-probabilities of the rollout, or something (precision, dropout, another batch
size) differs between them.
"""

__all__ = ["Updater"]

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor

from editing.advantage import Advantages
from editing.algorithms.algorithm import Algorithm
from editing.anchor import Anchor
from editing.collect import Batch
from editing.editors.editor import Editor
from editing.examples import examples
from editing.precision import Precision
from editing.processes import Processes
from editing.recipe import AnchorConfig, RewardLoop
from editing.weights import Policies, PolicyConfig
from mmreward.training import TrainingError
from mmreward.training.optim import Optimizers, default_groups, lr_factor
from mmreward.training.sharded import whole

_ON_POLICY = 0.05
"""Largest mean |ratio - 1| at the first update, as a share of the clip range."""
_MAX_SKIPPED_IN_A_ROW = 10


class Updater:
    """Optimiser and counters of a run."""

    def __init__(
        self,
        editor: Editor,
        policies: Policies,
        algorithm: Algorithm,
        loop: RewardLoop,
        policy: PolicyConfig,
        accelerator: Accelerator,
        processes: Processes,
        precision: Precision,
        anchor: AnchorConfig | None = None,
    ) -> None:
        self.editor, self.policies, self.algorithm, self.loop = editor, policies, algorithm, loop
        self.policy, self.accelerator, self.processes, self.precision = policy, accelerator, processes, precision
        self.examples = examples(editor, policies, algorithm.needs, precision, loop.seed)
        self.anchor = Anchor(editor, policies, anchor, precision, loop.seed) if anchor else None
        self.optimizers = Optimizers(default_groups(editor.module, loop), loop)
        self.updates, self.skipped, self.skipped_in_a_row = 0, 0, 0

    def update(self, batch: Batch, signal: Advantages, iteration: int, fraction: float) -> dict[str, float]:
        """`loop.updates` optimiser steps, each on its share of the samples and all examples of each.

        `batch` has this process's samples, `signal` the advantages of all. `fraction` says how much of the run is done
        (for the learning rate); returns means over what was trained on, and `skipped`, the updates so far that were
        left out because their loss or gradient was not finite.
        """
        loop = self.loop
        dealing = torch.Generator().manual_seed(loop.seed * 7919 + iteration)
        shuffled = torch.randperm(len(signal.values), generator=dealing)
        count = self.examples.count(batch)
        sums: dict[str, float] = defaultdict(float)
        weight_total, norms = 0.0, []
        for rows in shuffled.tensor_split(loop.updates):
            weight = float(signal.weights[rows].sum()) * count
            if weight == 0:
                continue
            found = self.processes.total(self._backward(batch, signal, rows, weight, iteration))
            for name, value in found.items():
                sums[name] += value
            weight_total += weight
            if self.updates == 0:
                self._check_on_policy(sums.get("ratio_deviation", 0.0) / weight_total)
            norms.append(self._descend(found["loss"], fraction))
            self.updates += 1
            if ema := self.policy.ema:
                self.policies.follow("ema", min(ema, (1 + self.updates) / (10 + self.updates)))
        numbers = {name: value / weight_total for name, value in sums.items()} if weight_total else {}
        return {**numbers, "grad_norm": sum(norms) / len(norms) if norms else math.nan, "skipped": self.skipped}

    def _backward(
        self, batch: Batch, signal: Advantages, rows: Tensor, weight: float, iteration: int
    ) -> dict[str, float]:
        """Gradients of the samples `rows` that are this process's; the sums of their losses and other numbers."""
        sums: dict[str, float] = defaultdict(float)
        scale = self.processes.size if self.policy.shard else 1  # which takes the mean over the processes
        mine = signal.select(slice(batch.first, batch.first + len(batch.edits)))
        idle = replace(mine, weights=torch.zeros_like(mine.weights))
        self.examples.begin_update()
        for part, counts in self._parts(rows, batch):
            for index in range(self.examples.count(batch)):
                with self.precision.backward():
                    example = self.examples.example(batch, mine if counts else idle, part, index, iteration)
                    loss = self.algorithm.loss(example)
                    self.accelerator.backward(loss.total * scale / weight)
                sums["loss"] += float(loss.total.detach())
                for name, value in loss.parts.items():
                    sums[name] += value
        if self.anchor:
            sums["anchor"] = weight * self._hold(self.anchor, batch, rows, iteration, scale)
        return sums

    def _hold(self, anchor: Anchor, batch: Batch, rows: Tensor, iteration: int, scale: int) -> float:
        """Gradients of the anchor at some of the samples `rows`, those that are this process's; its part of the mean
        distance.
        """
        held, total = rows[:: anchor.config.every], 0.0
        made = torch.zeros(len(batch), device=batch.trajectory.final.device)
        made[batch.made] = 1.0
        for part, counts in self._parts(held, batch):
            with self.precision.backward():
                distance = (anchor.distance(batch, part, iteration) * made[part]).sum() / len(held)
                self.accelerator.backward(anchor.config.weight * scale * counts * distance)
            total += counts * float(distance.detach())
        return total

    def _parts(self, rows: Tensor, batch: Batch) -> Iterator[tuple[Tensor, bool]]:
        """This process's rows of an update in micro-batches. A network that is spread over the processes is called
        equally often in each: where that takes a part more, one row comes again and counts for nothing.
        """
        size, held = self.loop.micro_batch, len(batch.edits)
        mine = rows[(rows >= batch.first) & (rows < batch.first + held)] - batch.first
        parts = mine.split(size) if len(mine) else ()
        yield from ((part, True) for part in parts)
        if self.policy.shard:
            counts = torch.bincount(rows // held, minlength=self.processes.size)  # shares have one size then
            for _ in range(math.ceil(int(counts.max()) / size) - len(parts)):
                yield torch.zeros(1, dtype=torch.long), False

    def _descend(self, total: float, fraction: float) -> float:
        loop = self.loop
        parameters = self.optimizers.parameters()
        if not self.policy.shard:
            self.processes.sum_gradients(parameters)
        norm = float(whole(self.accelerator.clip_grad_norm_(parameters, loop.clip_norm)))
        if math.isfinite(norm) and math.isfinite(total):
            self.optimizers.step(lr_factor(loop, self.updates, fraction))
            self.skipped_in_a_row = 0
            return norm
        self.optimizers.zero_grad()
        self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"{self.skipped_in_a_row} updates in a row had a non-finite loss or gradient; lower loop.lr or set "
                "loop.autocast: no"
            )
        return math.nan

    def _check_on_policy(self, deviation: float) -> None:
        limit = _ON_POLICY * getattr(self.algorithm, "clip", math.inf)
        if not deviation <= limit:
            raise TrainingError(
                f"the first update is not on-policy: mean |ratio - 1| is {deviation:.2e}, expected at most "
                f"{limit:.1e} ({_ON_POLICY:g} of algorithm.clip). Sampling and training compute differently: set "
                "loop.autocast: no, or choose a larger algorithm.clip"
            )
