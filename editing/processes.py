"""Several processes that train one policy: who does which share, what they tell each other, and how they wait.

    accelerate launch --num_processes 6 -m mmreward train RECIPE

Numbers and texts (scores, clocks, the wish to stop) go through the store that the processes met in; tensors
(gradients) through collective operations. Collective operations have a time-out, after which the whole run dies, and a
slow judge in one process must not use it up. So nobody enters one before all are there: `gather` comes first, and it
waits in the store, without limit, as long as the others give signs of life. Each process has a thread that gives one
every second. Of a process that gives none for `patience` seconds, or that says it has failed, the others say so, and
stop.

With one process all of this is nothing: `gather` returns what it was given.
"""

__all__ = ["Processes"]

import json
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmreward.training import Interrupted, TrainingError

_NUMBERS = count()
"""Runs in one process one after the other leave nothing to each other in the store; all processes count alike."""
_BEAT = 1.0
_PAUSE = 0.02
_GOODBYE = 10.0
_BUCKET = 2**24
"""Numbers of one dtype that are summed over the processes at once."""


class Processes:
    """This process (`rank` of `size`) among the others; `together` is the `with` around their work."""

    def __init__(self, patience: float = 120.0) -> None:
        there = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if there else (0, 1)
        self.patience = patience
        self._round = 0
        self._leaving = threading.Event()
        if self.size > 1:
            self._store = dist.PrefixStore(f"mmreward/{next(_NUMBERS)}", dist.distributed_c10d._get_default_store())
            self._heard = {rank: (0, time.monotonic()) for rank in range(self.size)}
            self._listened = time.monotonic()
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    @property
    def main(self) -> bool:
        """Whether this is the one process that writes files."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """The numbers, of 0 to `total`, that are this process's: neighbours, as many as others have, or one more."""
        return self.shares(total)[self.rank]

    def shares(self, total: int) -> list[range]:
        """What each process has of `total`."""
        bounds = [rank * total // self.size for rank in range(self.size + 1)]
        return [range(first, last) for first, last in zip(bounds, bounds[1:])]

    # ---- telling each other

    def gather(self, value: Any) -> list[Any]:
        """What each process gave (JSON), in their order. Waits for the slowest, however long it takes."""
        if self.size == 1:
            return [value]
        try:
            return self._gather(json.dumps(value))
        except dist.DistError as error:
            raise TrainingError(f"the first process, which keeps the store, is gone ({error})") from None

    def _gather(self, said: str) -> list[Any]:
        self._round += 1
        self._store.set(self._name(self._round, self.rank), said)
        arrived = f"arrived/{self._round}"
        self._store.add(arrived, 1)
        self._wait(arrived, self.size)
        found = [json.loads(self._store.get(self._name(self._round, rank))) for rank in range(self.size)]
        if self._round > 1:  # all are in this round, so all have read the last
            self._store.delete_key(self._name(self._round - 1, self.rank))
            if self.main:
                self._store.delete_key(f"arrived/{self._round - 1}")
        return found

    def total(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The sums over the processes; a number that one does not have counts as 0."""
        found: dict[str, float] = defaultdict(float)
        for said in self.gather(dict(numbers)):
            for name, value in said.items():
                found[name] += value
        return dict(found)

    def mean(self, numbers: Mapping[str, float], weight: float) -> dict[str, float]:
        """The weighted means over the processes that have a finite number of that name."""
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        sums = self.total({name: weight * value for name, value in finite.items()})
        weights = self.total(dict.fromkeys(finite, weight))
        return {name: value / weights[name] for name, value in sums.items()}

    @staticmethod
    def _name(number: int, rank: int) -> str:
        return f"said/{number}/{rank}"

    def _wait(self, key: str, number: int) -> None:
        pause = _PAUSE / 64
        while self._store.add(key, 0) < number:
            self._listen()
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE)

    def _listen(self) -> None:
        """Raises `TrainingError` where another process failed or fell silent."""
        now = time.monotonic()
        if now - self._listened < _BEAT:
            return
        self._listened = now
        if self._store.check(["failed"]):
            raise TrainingError(f"another process stopped: {self._store.get('failed').decode()}")
        for rank, (beats, when) in self._heard.items():
            latest = self._store.add(f"beat/{rank}", 0)
            if latest != beats:
                self._heard[rank] = (latest, now)
            elif now - when > self.patience:
                raise TrainingError(
                    f"process {rank} of {self.size} has given no sign of life for {now - when:.0f} seconds: it was "
                    "killed, or its machine is gone. Start again with --resume"
                )

    def _beat(self) -> None:
        while not self._leaving.wait(_BEAT):
            try:
                self._store.add(f"beat/{self.rank}", 1)
            except dist.DistError:  # the store went with the process that kept it
                return

    # ---- tensors

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Each gradient becomes its sum over the processes; one that only some processes have counts as 0 elsewhere.

        Once an update, over all micro-batches together: their number may differ from process to process.
        """
        if self.size == 1:
            return
        device = parameters[0].device
        has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=device)
        dist.all_reduce(has, dist.ReduceOp.MAX)
        gradients = []
        for parameter, there in zip(parameters, has.tolist(), strict=True):
            if there:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, total in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(total.view_as(gradient))

    @torch.no_grad()
    def same(self, module: nn.Module) -> None:
        """All processes start from the first one's trainable weights."""
        if self.size == 1:
            return
        self.gather(None)  # large models load at different speeds
        for parameter in module.parameters():
            if parameter.requires_grad:
                dist.broadcast(parameter.data, 0)

    # ---- leaving

    @contextmanager
    def together(self) -> Iterator[None]:
        """What fails here is told to the other processes, which would wait for this one in vain."""
        try:
            yield
        except Interrupted:
            raise  # all of them were, together
        except BaseException as error:
            if self.size > 1:
                with suppress(dist.DistError):
                    self._store.set("failed", f"process {self.rank} of {self.size}: {type(error).__name__}: {error}")
            raise
        finally:
            self._leave()

    def _leave(self) -> None:
        """The first process keeps the store, so it goes last; but after a failure it waits for nobody who is busy."""
        if self.size == 1 or self._leaving.is_set():
            return
        with suppress(dist.DistError):
            self._store.add("left", 1)
            until = time.monotonic() + _GOODBYE
            while self.main and self._store.add("left", 0) < self.size and time.monotonic() < until:
                time.sleep(_PAUSE)
        self._leaving.set()


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype, up to `_BUCKET` numbers together."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(g.numel() for g in bucket) + gradient.numel() > _BUCKET
        if bucket and (full or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
