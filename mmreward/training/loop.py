"""One training loop: it knows a module, batches and a loss, and nothing of judges, editors or rewards.

Learning rates fall by steps or by minutes; bf16 autocast; gradient clipping; steps with a non-finite loss or gradient
are skipped and counted, and too many in a row stop the run. `batch_at(step)` must depend on the step alone (use its
own seeded generator, not torch's global one: it runs in another thread, one step ahead). Then a run that was stopped
and resumed ends with the same bytes as one that was not.
"""

from __future__ import annotations

__all__ = ["FitResult", "Interrupted", "Loss", "autocast", "fit", "move"]

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmreward.training.checkpoint import (
    check_weights,
    load_checkpoint,
    random_state,
    refuse_to_overwrite,
    restore_random_state,
    save_checkpoint,
)
from mmreward.training.compiled import COMPILING, compile_in_place
from mmreward.training.config import LoopConfig
from mmreward.training.log import JsonlLog, Progress
from mmreward.training.optim import Ema, Group, Optimizers, TrainingError, default_groups, lr_factor
from mmreward.training.sharded import like, whole
from mmreward.training.stop import stop_signal
from mmreward.training.together import Alone, Together, average_gradients, clip_gradients

_MAX_SKIPPED_IN_A_ROW = 20


class Interrupted(Exception):
    """Training was stopped by a signal after a checkpoint was written to `folder` at `step`."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(
            f"stopped at step {step}; checkpoint written to {folder}. Run the same command with --resume to go on."
        )
        self.folder, self.step = folder, step


@dataclass(frozen=True)
class Loss:
    """What a loss function returns: the tensor to differentiate and numbers for the log."""

    total: Tensor
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FitResult:
    """How far training came; `ema_state` is a full state dict with averaged weights, or None without EMA."""

    steps: int
    seconds: float
    ema_state: dict[str, Tensor] | None


def move(batch: Any, device: torch.device) -> Any:
    """`batch` with all tensors in dicts, lists, tuples and dataclasses on `device`."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(move(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(move(value, device) for value in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{f.name: move(getattr(batch, f.name), device) for f in fields(batch) if f.init})
    return batch


def autocast(device: torch.device, kind: str) -> torch.autocast:
    """bf16 autocast on any device, or none (``kind="no"``)."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=kind == "bf16")


def _means(numbers: Sequence[dict[str, float]]) -> dict[str, float]:
    """By name, over the processes that gave one."""
    names = dict.fromkeys(name for each in numbers for name in each)
    values = {name: [float(each[name]) for each in numbers if name in each] for name in names}
    return {name: sum(some) / len(some) for name, some in values.items()}


def fit(
    module: nn.Module,
    batch_at: Callable[[int], Any],
    loss: Callable[[nn.Module, Any], Loss],
    config: LoopConfig,
    folder: Path,
    *,
    resume: bool = True,
    parameter_groups: Sequence[Group] | None = None,
    on_log: Callable[[dict[str, Any]], None] | None = None,
    title: str = "training",
    processes: Together | None = None,
) -> FitResult:
    """Train `module` in place. Checkpoints and ``log.jsonl`` go to `folder`; a checkpoint there is continued when
    `resume` is true.

    With several `processes`, each calls this with the same module, and `batch_at` gives it its share of the batch: all
    shares have one size, and losses and gradients are their means. The first process writes, logs and calls `on_log`.

    Raises `Interrupted` after Ctrl-C (a checkpoint is written first), KeyboardInterrupt where there is nothing to save
    (in the first step, or at the second Ctrl-C), `TrainingError` when the loss stays non-finite
    or when `folder` holds a checkpoint and `resume` is false. `on_log` gets each log entry.
    """
    folder = Path(folder)
    processes = processes or Alone()
    refuse_to_overwrite(folder, resume)
    device = next(module.parameters()).device
    optimizers = Optimizers(parameter_groups or default_groups(module, config), config)
    ema = Ema(module, config.ema) if config.ema else None
    step, seconds, skipped, skipped_in_a_row, saved_step = 0, 0.0, 0, 0, -1
    torch.manual_seed(config.seed)

    found = load_checkpoint(folder)
    if found:
        current = module.state_dict()
        check_weights(current, found.tensors["weights"], found.path)
        module.load_state_dict({name: like(value, current[name]) for name, value in found.tensors["weights"].items()})
        optimizers.unpack(found.tensors, found.state["optimizers"])
        if ema:
            averages = move(found.tensors["ema"], device)
            ema.values = {name: like(averages[name], value) for name, value in ema.values.items()}
        restore_random_state(found.tensors["random"], found.state["random"])
        step = saved_step = found.step
        seconds, skipped = found.state["seconds"], found.state["skipped"]

    def save() -> None:
        nonlocal saved_step
        if saved_step == step:
            return
        tensors, state = optimizers.pack()
        random_tensors, random_values = random_state()
        spread = {"weights": module.state_dict(), **tensors, **({"ema": ema.values} if ema else {})}
        tables = {
            name: {key: whole(tensor, processes.main) for key, tensor in table.items()}
            for name, table in spread.items()
        }
        if processes.main:
            save_checkpoint(
                folder,
                step,
                {**tables, "random": random_tensors},
                {
                    "optimizers": state,
                    "random": random_values,
                    "seconds": seconds,
                    "skipped": skipped,
                    "sums": sums,
                    "counted": counted,
                    "config": config.model_dump(),
                },
            )
        processes.gather(None)  # a slow disk must not use up the time-out of the others' next collective operation
        saved_step = step

    def fraction_done() -> float:
        return seconds / (60 * config.minutes) if config.minutes else step / (config.steps or 1)

    log = JsonlLog(folder / "log.jsonl", found.step if found else None) if processes.main else None
    sums: dict[str, float] = found.state["sums"] if found else {}
    counted = found.state["counted"] if found else 0
    clock = time.monotonic()
    saved_at, shown_at = clock, seconds
    module.train()
    first = step
    compiles = config.compile and compile_in_place(module)
    try:
        with (
            stop_signal() as stop,
            Progress(title) if processes.main else nullcontext() as progress,
            ThreadPoolExecutor(1, "batch") as background,
        ):
            if compiles and progress:
                progress.update(min(fraction_done(), 1.0), seconds, COMPILING)
            following = background.submit(batch_at, step) if fraction_done() < 1 else None
            while following is not None:
                batch = move(following.result(), device)
                following = background.submit(batch_at, step + 1)
                with stop.at_once(step == first):
                    with autocast(device, config.autocast):
                        result = loss(module, batch)
                    result.total.backward()
                numbers = _means(processes.gather({"loss": float(result.total.detach()), **result.parts}))
                average_gradients(optimizers.parameters(), processes)
                norm = clip_gradients(optimizers.parameters(), config.clip_norm)
                if math.isfinite(norm) and math.isfinite(numbers["loss"]):
                    optimizers.step(lr_factor(config, step, fraction_done()))
                    if ema:
                        ema.update(module, step)
                    skipped_in_a_row = 0
                    for name, value in {**numbers, "grad_norm": norm}.items():
                        sums[name] = sums.get(name, 0.0) + value
                    counted += 1
                else:
                    optimizers.zero_grad()
                    skipped, skipped_in_a_row = skipped + 1, skipped_in_a_row + 1
                    if skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
                        raise TrainingError(
                            f"{_MAX_SKIPPED_IN_A_ROW} steps in a row had a non-finite loss or gradient "
                            f"(the last: step {step}). "
                            f"Lower lr, or set autocast: no. The last good checkpoint is kept in {folder}."
                        )
                step += 1
                now = time.monotonic()
                save_due = now - saved_at > 60 * config.save_minutes
                said = processes.gather([seconds + now - clock, save_due, stop.is_set()])
                seconds, save_due, stopping = said[0][0], said[0][1], any(wish for _, _, wish in said)
                clock = now
                if step % config.log_every == 0 or fraction_done() >= 1:
                    entry: dict[str, Any] = {
                        "step": step,
                        "seconds": round(seconds, 2),
                        "skipped": skipped,
                        **{name: value / max(counted, 1) for name, value in sums.items()},
                    }
                    sums, counted, shown_at = {}, 0, seconds
                    if log and progress:
                        log.write(entry)
                        text = f"step {step}  loss {entry.get('loss', math.nan):.4f}"
                        progress.update(min(fraction_done(), 1.0), seconds, text)
                        if on_log:
                            on_log(entry)
                elif progress and seconds - shown_at > 5:
                    progress.update(min(fraction_done(), 1.0), seconds, f"step {step}")
                    shown_at = seconds
                if stopping:
                    save()
                    raise Interrupted(folder, step)
                if fraction_done() >= 1:
                    break
                if save_due:
                    save()
                    saved_at = time.monotonic()
            save()
    finally:
        if log:
            log.close()
    return FitResult(step, seconds, ema.state_dict(module) if ema else None)
