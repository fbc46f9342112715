"""Train an editor on rewards: deal groups, sample, score, turn scores into advantages, step; watch it with a monitor.

    iteration: tasks -> encode once -> rollout (G members each) -> decode -> reward -> advantages -> updates -> average

The trainer knows no algorithm (it collects what `needs` says; an old policy, where there is one, samples, and follows
after the updates), no editor and no reward. Sampling noise and starting noise depend on (seed, iteration, task) alone,
and everything else is in the checkpoint, so a resumed run equals one that was never stopped, bit for bit on a CPU. In
the output folder: `log.jsonl`, `grids/`, checkpoints, and at the end `result.json` (the final measure before and after,
paired noise) and `model/` (the averaged weights, loadable like any editor).
"""

__all__ = ["Result", "Trainer", "run", "train"]

import json
import math
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from editing.advantage import advantages, repeat_noise
from editing.algorithms import ALGORITHMS
from editing.algorithms.algorithm import Algorithm
from editing.collect import Batch, Clock, collect
from editing.data import Task, Tasks, load_tasks
from editing.editors import load_editor
from editing.editors.editor import Editor
from editing.evaluation import Evaluation, compare, evaluate
from editing.grids import Row, grid
from editing.parts import parts_of
from editing.recipe import Recipe
from editing.roles import Roles, check_roles, load_roles
from editing.unscored import Unscored
from editing.update import Updater
from editing.weights import Policies
from editing.winrate import judge_of
from mmreward.config import ConfigError, read_config
from mmreward.score import Score
from mmreward.training import (
    Interrupted,
    JsonlLog,
    Progress,
    TrainingError,
    check_weights,
    load_checkpoint,
    save_checkpoint,
)
from mmreward.training.checkpoint import random_state, refuse_to_overwrite, restore_random_state
from mmreward.training.compiled import compile_in_place
from mmreward.training.loop import autocast, stop_signal

_GRID_ROWS = 6


@dataclass(frozen=True)
class Result:
    """How the run ended; `before` and `after` are the final measure, None where the recipe has none."""

    iterations: int
    seconds: float
    before: Evaluation | None
    after: Evaluation | None


class Trainer:
    """One run. `tasks`, `editor` and `roles` are given, so that tests can give small ones."""

    def __init__(
        self,
        recipe: Recipe,
        editor: Editor,
        roles: Roles,
        tasks: Tasks,
        folder: Path,
        accelerator: Accelerator,
        on_log: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.recipe, self.editor, self.roles, self.tasks, self.folder = recipe, editor, roles, tasks, Path(folder)
        self.accelerator, self.on_log = accelerator, on_log
        self.algorithm = load_algorithm(recipe)
        self.needs = self.algorithm.needs
        self.reward = judge_of(roles.reward, self.needs)
        self.parts = parts_of(self.reward, recipe.advantage)
        extra = {"ema": recipe.policy.ema, "old": self.needs.old}
        names = ("start", *(name for name, needed in extra.items() if needed))
        torch.manual_seed(recipe.loop.seed)
        self.policies = Policies.of(editor, recipe.policy, names)
        ema = recipe.policy.ema
        self.updater = Updater(editor, self.policies, self.algorithm, recipe.loop, ema, accelerator)
        if recipe.loop.compile:
            compile_in_place(editor.module)
        self.iteration, self.seconds = 0, 0.0
        self.noise: float | None = None
        self.failures: deque[list[int]] = deque(maxlen=10)
        self.unscored = Unscored()
        self.clock = Clock()

    # ---- the run

    def fit(self, resume: bool) -> None:
        """All iterations, with checkpoints; raises `Interrupted` after Ctrl-C."""
        loop = self.recipe.loop
        refuse_to_overwrite(self.folder, resume)
        resumed = self._restore()
        log = JsonlLog(self.folder / "log.jsonl", self.iteration if resumed else None)
        clock = saved = time.monotonic()

        def tick() -> None:
            nonlocal clock
            now = time.monotonic()
            self.seconds, clock = self.seconds + now - clock, now

        def write(entry: dict[str, Any]) -> None:
            log.write(entry)
            if self.on_log:
                self.on_log(entry)

        try:
            with stop_signal() as stop, Progress("training") as progress:
                if not resumed:
                    write(self.watch())
                batch = None
                while self._fraction() < 1:
                    batch, entry = self.step()
                    self.iteration += 1
                    tick()
                    if self.iteration % loop.log_every == 0:
                        write({"step": self.iteration, "seconds": round(self.seconds, 2), **entry})
                    if self.iteration % self.recipe.evaluation.every == 0:
                        self._draw(batch)
                        write(self.watch())
                        tick()
                    text = f"iteration {self.iteration}  reward {entry['reward']:.3f}"
                    progress.update(min(self._fraction(), 1.0), self.seconds, text)
                    if stop.is_set():
                        self._save()
                        raise Interrupted(self.folder, self.iteration)
                    if time.monotonic() - saved > 60 * loop.save_minutes:
                        self._save()
                        saved = time.monotonic()
                if batch is not None and self.iteration % self.recipe.evaluation.every:
                    write(self.watch())
                self._save()
        finally:
            log.close()

    def finish(self) -> Result:
        """The averaged weights become the editor's, are saved, and are measured once beside the starting weights."""
        best = self._best()
        before = after = None
        if self.roles.final:
            config = self.recipe.evaluation
            tasks = _take(load_tasks(config.final), config.final_tasks)
            with self.policies.use("start"):
                before = self.evaluate(tasks, self.roles.final)
            with best:
                after = self.evaluate(tasks, self.roles.final)
            found = {"before": before.summary(), "after": after.summary(), **compare(before, after)}
            result = {"iterations": self.iteration, "seconds": self.seconds, "final": found}
            (self.folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        if self.recipe.policy.ema:
            self.policies.adopt("ema", self.recipe.policy.keep)
        self.editor.save(self.folder / "model")
        return Result(self.iteration, self.seconds, before, after)

    # ---- one iteration

    def step(self) -> tuple[Batch, dict[str, Any]]:
        """Collect, score, update; returns what to show and what to log."""
        loop, clock = self.recipe.loop, self.clock
        clock.start()
        count = self.recipe.rollout.groups
        tasks = [self.tasks.task(self.iteration * count + place) for place in range(count)]
        with self.policies.use("old") if self.needs.old else nullcontext():
            batch = collect(
                self.editor,
                tasks,
                self.recipe.rollout,
                self.recipe.rollout.window_of(self.iteration),
                f"{loop.seed}/{self.iteration}",
                self._context,
                self.clock,
            )
        with clock.part("reward"):
            scores = self.reward.score(batch.edits)
            values = _overall(scores)
            if self.noise is None:
                order = list(range(len(values)))[::-1]
                again = _overall(self.reward.score([batch.edits[i] for i in order]))
                self.noise = repeat_noise(values, again[torch.tensor(order)])
        self._count_failures(scores)
        groups = [edit.group for edit in batch.edits]
        parts = self.parts.values(scores) if self.parts else None
        signal = advantages(values, groups, self.recipe.advantage, self.noise, parts)
        with clock.part("update"):
            numbers = self.updater.update(batch, signal, self.iteration, self._fraction())
            if self.needs.old:
                self.policies.follow("old", self.needs.old(self.updater.updates))
        finite = values[torch.isfinite(values)]
        entry = {
            "kind": "train",
            "reward": float(finite.mean()) if len(finite) else math.nan,
            "deviation": signal.deviation,
            "statuses": dict(Counter(score.status for score in scores)),
            "unscored": self.unscored.add(scores, groups),
            "dropped_groups": signal.dropped_groups,
            "filtered_groups": signal.filtered_groups,
            "repeat_noise": self.noise,
            **numbers,
        }
        entry["timing"] = clock.parts()
        self._last_scores = scores
        return batch, entry

    def _count_failures(self, scores: list[Score]) -> None:
        self.failures.append([sum(not score.ok for score in scores), len(scores)])
        failed, total = (sum(column) for column in zip(*self.failures, strict=True))
        if failed > self.recipe.loop.max_failures * total:
            first = next(score for score in scores if not score.ok) if self.failures[-1][0] else None
            reason = f"; the last: {first.status}, {first.error}" if first else ""
            raise TrainingError(
                f"{failed} of the last {total} edits have no score, more than the share that loop.max_failures allows "
                f"({self.recipe.loop.max_failures:g}){reason}"
            )

    # ---- watching

    def watch(self) -> dict[str, Any]:
        """The monitor's view of the averaged weights."""
        config = self.recipe.evaluation
        tasks = _take(load_tasks(config.monitor), config.monitor_tasks)
        with self._best():
            found = self.evaluate(tasks, self.roles.monitor)
        return {"kind": "monitor", "step": self.iteration, "seconds": round(self.seconds, 2), **found.summary()}

    def evaluate(self, tasks: list[Task], reward: Any) -> Evaluation:
        """Edits of `tasks` with paired noise, scored by `reward`."""
        config = self.recipe.rollout
        return evaluate(self.editor, tasks, reward, config.steps, batch=config.batch, context=self._context)

    def _best(self) -> AbstractContextManager[None]:
        policy = self.recipe.policy
        return self.policies.use("ema", policy.keep) if policy.ema else nullcontext()

    def _draw(self, batch: Batch) -> None:
        members = self.recipe.rollout.members
        rows = []
        for place, task in enumerate(batch.tasks[:_GRID_ROWS]):
            part = slice(place * members, (place + 1) * members)
            rows.append(Row(task.source, task.instruction, batch.images[part], self._last_scores[part]))
        path = self.folder / "grids" / f"iteration-{self.iteration:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grid(rows).save(path)

    # ---- state

    def _fraction(self) -> float:
        loop = self.recipe.loop
        return self.seconds / (60 * loop.minutes) if loop.minutes else self.iteration / (loop.steps or 1)

    def _save(self) -> None:
        tensors, optimizers = self.updater.optimizers.pack()
        random_tensors, random_values = random_state()
        state = {
            "updates": self.updater.updates,
            "seconds": self.seconds,
            "noise": self.noise,
            "failures": list(self.failures),
            "unscored": list(self.unscored.state),
            "skipped": self.updater.skipped,
            "optimizers": optimizers,
            "random": random_values,
            "recipe": self.recipe.model_dump(mode="json"),
        }
        tables = {**self.policies.tables(), **tensors, "random": random_tensors}
        save_checkpoint(self.folder, self.iteration, tables, state)

    def _restore(self) -> bool:
        found = load_checkpoint(self.folder)
        if found is None:
            return False
        for name, table in self.policies.tables().items():
            if name not in found.tensors:
                raise ConfigError(f"{found.path} has no weights {name!r}: it was made with other policy settings")
            check_weights(table, found.tensors[name], found.path)
        self.policies.restore(found.tensors)
        self.updater.optimizers.unpack(found.tensors, found.state["optimizers"])
        restore_random_state(found.tensors["random"], found.state["random"])
        self.iteration, self.seconds, self.noise = found.step, found.state["seconds"], found.state["noise"]
        self.updater.updates, self.updater.skipped = found.state["updates"], found.state["skipped"]
        self.failures.extend(found.state["failures"])
        self.unscored = Unscored(found.state.get("unscored", ()))
        return True

    def _context(self) -> AbstractContextManager[Any]:
        return autocast(self.accelerator.device, self.recipe.loop.autocast)


def load_algorithm(recipe: Recipe) -> Algorithm:
    """The algorithm that a recipe names, with its settings; refused where the rollout cannot give what it needs."""
    name = recipe.algorithm["name"]
    module, _, kind = ALGORITHMS[name].partition(":")
    algorithm: Algorithm = read_config(getattr(import_module(module), kind), recipe.algorithm, "algorithm")
    if algorithm.needs.trajectory and not recipe.rollout.window:
        raise ConfigError(
            f"rollout.window: {name} learns from the noisy steps of sampling, and there are none with 0; set 1 or more"
        )
    return algorithm


def train(
    recipe: Recipe, folder: Path, resume: bool = False, on_log: Callable[[dict[str, Any]], None] | None = None
) -> Result:
    """Everything that `recipe` says, into `folder`."""
    check_roles(recipe.roles)
    load_algorithm(recipe)
    accelerator = Accelerator(mixed_precision="no")  # autocast is ours: rollout and replay must compute alike
    if accelerator.num_processes > 1:
        raise ConfigError("reward training runs in one process; start it without a launcher")
    editor = load_editor(recipe.editor, device=accelerator.device)
    trainer = Trainer(recipe, editor, load_roles(recipe.roles), load_tasks(recipe.data), folder, accelerator, on_log)
    trainer.fit(resume)
    return trainer.finish()


def run(recipe: dict[str, Any], folder: Path, resume: bool) -> None:
    """The entry of `mmreward train` for `task: reward` (and `task: grpo`, its older name)."""
    train(read_config(Recipe, recipe), folder, resume)


def _overall(scores: list[Score]) -> torch.Tensor:
    return torch.tensor([score.overall for score in scores], dtype=torch.float64)


def _take(tasks: Tasks, count: int) -> list[Task]:
    return [tasks.task(index) for index in range(count)]
