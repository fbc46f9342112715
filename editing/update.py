"""The updates of one iteration: make the algorithm's examples under the present weights, take its loss, step.

Gradients do not depend on the size of the micro-batches: the loss of an update is one weighted mean over its samples
and the examples of each (`editing.examples`), whatever pieces it is computed in. The first update of a run must be
on-policy: a replay has to find the log-probabilities of the rollout, or something (precision, dropout, another batch
size) differs between them.
"""

__all__ = ["Updater"]

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch.nn.attention import SDPBackend, sdpa_kernel

from editing.advantage import Advantages
from editing.algorithms.algorithm import Algorithm
from editing.collect import Batch
from editing.editors.editor import Editor
from editing.examples import examples
from editing.recipe import RewardLoop
from editing.weights import Policies
from mmreward.training import TrainingError
from mmreward.training.loop import autocast
from mmreward.training.optim import Optimizers, default_groups, lr_factor

_ON_POLICY = 0.05
"""Largest mean |ratio - 1| at the first update, as a share of the clip range."""
_MAX_SKIPPED_IN_A_ROW = 10


class Updater:
    """Optimiser and counters; `ema` is the decay of the averaged weights (0: none)."""

    def __init__(
        self,
        editor: Editor,
        policies: Policies,
        algorithm: Algorithm,
        loop: RewardLoop,
        ema: float,
        accelerator: Accelerator,
    ) -> None:
        self.editor, self.policies, self.algorithm, self.loop, self.ema = editor, policies, algorithm, loop, ema
        self.accelerator = accelerator
        self.examples = examples(editor, policies, algorithm.needs, self._context, loop.seed)
        self.optimizers = Optimizers(default_groups(editor.module, loop), loop)
        self.updates, self.skipped = 0, 0

    def update(self, batch: Batch, signal: Advantages, iteration: int, fraction: float) -> dict[str, float]:
        """`loop.updates` optimiser steps, each on its share of the samples and all examples of each.

        `fraction` says how much of the run is done (for the learning rate); returns means over what was trained on.
        """
        loop = self.loop
        dealing = torch.Generator().manual_seed(loop.seed * 7919 + iteration)
        shuffled = torch.randperm(len(batch.edits), generator=dealing)
        sums: dict[str, float] = defaultdict(float)
        weight_total, norms = 0.0, []
        for rows in shuffled.chunk(loop.updates):
            count = self.examples.count(batch)
            weight = float(signal.weights[rows].sum()) * count
            if weight == 0:
                continue
            total = 0.0
            self.examples.begin_update()
            for part in rows.split(loop.micro_batch):
                for index in range(count):
                    loss = self.algorithm.loss(self.examples.example(batch, signal, part, index, iteration))
                    self.accelerator.backward(loss.total / weight)
                    total += float(loss.total.detach())
                    for name, value in loss.parts.items():
                        sums[name] += value
            sums["loss"] += total
            weight_total += weight
            if self.updates == 0:
                self._check_on_policy(sums["ratio_deviation"] / weight_total)
            norms.append(self._descend(total, fraction))
            self.updates += 1
            if self.ema:
                self.policies.follow("ema", min(self.ema, (1 + self.updates) / (10 + self.updates)))
        numbers = {name: value / weight_total for name, value in sums.items()} if weight_total else {}
        return {**numbers, "grad_norm": sum(norms) / len(norms) if norms else math.nan, "skipped": self.skipped}

    @contextmanager
    def _context(self) -> Iterator[None]:
        device = self.accelerator.device
        # On a CPU the backward pass of fused attention takes longer than plain products.
        attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
        with autocast(device, self.loop.autocast), attention:
            yield

    def _descend(self, total: float, fraction: float) -> float:
        loop = self.loop
        norm = float(self.accelerator.clip_grad_norm_(self.optimizers.parameters(), loop.clip_norm))
        if math.isfinite(norm) and math.isfinite(total):
            self.optimizers.step(lr_factor(loop, self.updates, fraction))
            self.skipped = 0
            return norm
        self.optimizers.zero_grad()
        self.skipped += 1
        if self.skipped >= _MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"{self.skipped} updates in a row had a non-finite loss or gradient; lower loop.lr or set "
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
