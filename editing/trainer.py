"""Train an editor on rewards: deal groups, sample, score, turn scores into advantages, step; watch it with a monitor.

    iteration: tasks -> encode once -> rollout (G members each) -> decode -> reward -> advantages -> updates -> average

The trainer knows no algorithm (it collects what `needs` says; an old policy, where there is one, samples, and follows
after the updates), no editor and no reward. Sampling noise and starting noise depend on (seed, iteration, task) alone,
and everything else is in the checkpoint (`editing.state`), so a resumed run equals one that was never stopped, bit for
bit on a CPU. Several processes share the groups of an iteration, whole groups each; advantages are over the groups of
all, and losses and weights are those of one process (`editing.processes`). In the output folder: `log.jsonl`, `grids/`,
checkpoints, and at the end `result.json` (the final measure before and after, paired noise) and `model/` (the averaged
weights, loadable like any editor).
"""

__all__ = ["Result", "Trainer", "load_algorithm", "run", "train"]

import math
import os
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from editing import state as states
from editing.alarm import blind
from editing.collect import Batch, Clock, OnPiece, collect, places
from editing.data import FileTasks, Task, TaskConfig, Tasks, first_tasks, load_tasks
from editing.deal import Dealer
from editing.editors import load_editor
from editing.editors.editor import Editor
from editing.evaluation import Evaluation, compare
from editing.grids import Row, grid
from editing.journal import Journal, Listener
from editing.measures import measures
from editing.precision import Precision
from editing.processes import Processes
from editing.recipe import Recipe, load_algorithm
from editing.rescue import saved_before_errors
from editing.roles import Roles, check_roles, kinships, load_roles
from editing.scoring import Scoring
from editing.sharding import prepare
from editing.update import Updater
from editing.watch import Watch
from editing.weights import Policies
from mmreward.config import ConfigError, read_config
from mmreward.edit import Edit
from mmreward.score import Score
from mmreward.strict_json import dumps
from mmreward.training import Interrupted
from mmreward.training.checkpoint import refuse_to_overwrite
from mmreward.training.compiled import COMPILING, compile_in_place, is_compiled
from mmreward.training.stop import stop_signal

_GRID_ROWS = 6


@dataclass(frozen=True)
class Result:
    """How the run ended; `before` and `after` are the final measure, None where the recipe has none."""

    iterations: int
    seconds: float
    before: Evaluation | None
    after: Evaluation | None


class Trainer:
    """One run, or one process of it. `tasks`, `editor` and `roles` are given, so that tests can give small ones."""

    def __init__(
        self,
        recipe: Recipe,
        editor: Editor,
        roles: Roles,
        tasks: Tasks,
        folder: Path,
        accelerator: Accelerator,
        on_log: Listener | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.recipe, self.editor, self.roles, self.folder = recipe, editor, roles, Path(folder)
        self.accelerator, self.on_log = accelerator, on_log
        self.processes = processes or Processes()
        self.algorithm = load_algorithm(recipe)
        self.needs = self.algorithm.needs
        self._agree_on(tasks)
        self.tasks, self.looked_at = tasks, dict[str, Tasks]()
        self.dealer = Dealer(tasks, editor, recipe.rollout.groups, self.processes.gather)
        self.places = places(recipe, self.processes)
        scoring = Scoring(roles.reward, recipe, self.needs, self.processes)
        extra = {"ema": recipe.policy.ema, "old": self.needs.old}
        names = ("start", *(name for name, needed in extra.items() if needed))
        torch.manual_seed(recipe.loop.seed)
        policies = Policies.of(editor, recipe.policy, names, self._prepare)
        self.precision = Precision(accelerator.device, recipe.loop.autocast)
        updater = Updater(
            editor,
            policies,
            self.algorithm,
            recipe.loop,
            recipe.policy,
            accelerator,
            self.processes,
            self.precision,
            recipe.anchor,
        )
        self.state = states.State(recipe, policies, updater, scoring)
        self.policies, self.updater, self.scoring = policies, updater, scoring
        self.watch = Watch(recipe, editor, policies, self.processes, self.precision)
        self.clock = Clock()

    def _prepare(self, module: nn.Module) -> None:
        """What has to be done to the network before its weights are copied."""
        loop = self.recipe.loop
        prepare(module, loop.gradient_checkpointing, self.recipe.policy.shard, self.processes)
        if loop.compile:
            compile_in_place(module)

    def _agree_on(self, tasks: Tasks) -> None:
        """All processes must see the same rows, or they would share out different ones."""
        if isinstance(tasks, FileTasks):
            counts = self.processes.gather(len(tasks.rows))
            if len(set(counts)) > 1:
                raise ConfigError(
                    f"{tasks.file}: the processes can use {', '.join(map(str, counts))} of its rows, in their order; "
                    "the file and its images must be the same on all machines"
                )

    # ---- the run

    def fit(self, resume: bool) -> None:
        """All iterations, with checkpoints. Raises `Interrupted` after Ctrl-C, with a checkpoint, and KeyboardInterrupt
        where there is nothing to save: in the first iteration, or at the second Ctrl-C. Before any other error ends the
        run, what was trained is saved.
        """
        state, loop, every = self.state, self.recipe.loop, self.recipe.evaluation.every
        refuse_to_overwrite(self.folder, resume)
        resumed = states.restore(state, self.folder, self.processes)
        clock = saved = time.monotonic()

        def agree(stop: bool = False) -> tuple[bool, bool]:
            """All processes go by the first one's clock, and stop together. Returns whether to stop, and to save."""
            nonlocal clock
            now = time.monotonic()
            said = self.processes.gather([state.seconds + now - clock, now - saved > 60 * loop.save_minutes, stop])
            state.seconds, clock = said[0][0], now
            return any(wish for _, _, wish in said), said[0][1]

        last = state.iteration if resumed else None
        self.whole = states.counters(state)
        with (
            Journal(
                self.folder, self.recipe.trackers, last, self.on_log, self.processes.main, self.needs.pairs is not None
            ) as journal,
            saved_before_errors(state, lambda: self.whole, self.folder, self.processes, journal.say),
            stop_signal() as stop,
        ):
            compiled = is_compiled(self.editor.module)
            journal.progress(state.fraction, state.seconds, COMPILING if compiled else "the first iteration")
            if not resumed:
                self._begin(journal)
            watched = state.iteration % every == 0 and not self._is_evaluated(journal)
            if watched:
                with stop.at_once():
                    journal.write(self.monitor())
            first = state.iteration
            while state.fraction < 1:
                with stop.at_once(state.iteration == first):
                    batch, entry = self.step()
                state.iteration += 1
                agree()
                if left_out := self._left_out():
                    journal.write({"kind": "data", "step": state.iteration, "unreadable": left_out})
                    journal.say(f"warning: {_rows(left_out)}")
                self.whole = states.counters(state)
                if state.iteration % loop.log_every == 0:
                    journal.write({"step": state.iteration, "seconds": round(state.seconds, 2), **entry})
                if state.iteration % every == 0:
                    self._draw(batch)
                    if compiled and not watched:
                        self._save()
                    with stop.at_once(compiled and not watched):  # its batches are of another shape: a minute
                        journal.write(self.monitor())
                    watched = True
                text = f"iteration {state.iteration}  reward {entry['reward']:.3f}"
                journal.progress(state.fraction, state.seconds, text)
                stopping, saving = agree(stop.is_set())
                if stopping or saving:
                    self._save()
                    saved = time.monotonic()
                if stopping:
                    raise Interrupted(self.folder, state.iteration)
            if not self._is_evaluated(journal):
                journal.write(self.monitor())
            self._save()
            journal.conclude()

    def _begin(self, journal: Journal) -> None:
        """What people should know before anything is trained: an entry of the log, where there is something."""
        warnings = [f"the alarm cannot ring: {why}" for why in blind(self.recipe, self.needs.pairs is not None)]
        warnings += kinships(self.recipe.roles)
        if left_out := self._left_out():
            warnings.append(_rows(left_out))
        for text in warnings:
            journal.say(f"warning: {text}")
        if warnings:
            journal.write({"kind": "start", "step": 0, "warnings": warnings, "unreadable": left_out})

    def _is_evaluated(self, journal: Journal) -> bool:
        """Whether the log has an evaluation of this iteration; after an error it may lack one."""
        found = (entry for entry in journal.entries() if entry.get("kind") == "monitor")
        return bool(self.processes.gather(any(entry["step"] == self.state.iteration for entry in found))[0])

    def finish(self) -> Result:
        """The averaged weights become the editor's, are saved, and are measured once beside the starting weights."""
        state, before, after = self.state, None, None
        if self.roles.final:
            tasks = self._tasks("final", self.recipe.evaluation.final, self.recipe.evaluation.final_tasks)
            with self.policies.use("start"):
                before = self.watch.evaluate(tasks, self.roles.final)
            with self.watch.best():
                after = self.watch.evaluate(tasks, self.roles.final)
            found = {"before": before.summary(), "after": after.summary(), **compare(before, after)}
            if self.processes.main:
                result = {"iterations": state.iteration, "seconds": state.seconds, "final": found}
                partial = self.folder / "result.json.partial"
                partial.write_text(dumps(result, indent=2) + "\n")
                os.replace(partial, self.folder / "result.json")
        if self.recipe.policy.ema:
            self.policies.adopt("ema", self.recipe.policy.keep)
        states.export(state, self.editor, self.folder / "model", self.processes)
        return Result(state.iteration, state.seconds, before, after)

    # ---- one iteration

    def step(self) -> tuple[Batch, dict[str, Any]]:
        """Collect, score, update; returns this process's samples, to show, and what to log of all."""
        state, clock = self.state, self.clock
        clock.start()
        with self.policies.use("old") if self.needs.old else nullcontext():
            batch, scores = self.scoring.sampled(self._sample, clock)
        with clock.part("reward"):
            judged = self.scoring.judge(batch, scores)
        with clock.part("update"):
            numbers = self.updater.update(batch, judged.signal, state.iteration, state.fraction)
            if self.needs.old:
                self.policies.follow("old", self.needs.old(self.updater.updates))
        finite = judged.values[torch.isfinite(judged.values)]
        entry = {
            "kind": "train",
            "reward": float(finite.mean()) if len(finite) else math.nan,
            "deviation": judged.signal.deviation,
            "statuses": dict(Counter(score.status for score in judged.scores)),
            "unscored": self.scoring.unscored.add(judged.scores, judged.groups),
            "dropped_groups": judged.signal.dropped_groups,
            "filtered_groups": judged.signal.filtered_groups,
            **self._noise(),
            **self.processes.mean(self._measures(batch, scores), len(batch.tasks)),
            **numbers,
        }
        if self.needs.pairs:
            entry["win_rates"] = True
        entry["timing"] = clock.parts()
        self._last_scores: list[Score] = scores
        return batch, entry

    def _sample(self, on_piece: OnPiece | None) -> Batch:
        rollout, iteration = self.recipe.rollout, self.state.iteration
        return collect(
            self.editor,
            self.dealer.tasks(iteration, self.places),
            rollout,
            rollout.window_of(iteration),
            f"{self.recipe.loop.seed}/{iteration}",
            self.precision,
            self.clock,
            on_piece,
            self.places.start * rollout.members,
        )

    def _noise(self) -> dict[str, Any]:
        """The repeat noise of the reward, and of each part that is normalised by itself."""
        noise, parts = self.scoring.noise, self.scoring.parts
        assert noise is not None
        named = dict(zip(parts.weights, noise.parts, strict=True)) if parts else {}
        return {"repeat_noise": noise.overall, **({"repeat_noise_parts": named} if named else {})}

    def _measures(self, batch: Batch, scores: list[Score]) -> dict[str, float]:
        """Of what the editor made."""
        made = [(edit, score) for edit, score in zip(batch.edits, scores, strict=True) if isinstance(edit, Edit)]
        return measures([edit for edit, _ in made], [score for _, score in made]) if made else {}

    def _left_out(self) -> dict[str, str]:
        """Rows of the data that were met since this was last asked and cannot be read: id -> why, of all processes."""
        mine = self.tasks.unreadable if isinstance(self.tasks, FileTasks) else {}
        known = self.state.unreadable
        new = {row: why for said in self.processes.gather(dict(mine)) for row, why in said.items() if row not in known}
        self.state.unreadable = {**known, **new}
        return new

    # ---- beside it

    def monitor(self) -> dict[str, Any]:
        """The monitor's view of the averaged weights."""
        evaluation = self.recipe.evaluation
        tasks = self._tasks("monitor", evaluation.monitor, evaluation.monitor_tasks)
        found = self.watch.monitor(tasks, self.roles.monitor)
        if isinstance(source := self.looked_at["monitor"], FileTasks) and source.unreadable:
            found["unreadable"] = dict(source.unreadable)
        return {"kind": "monitor", "step": self.state.iteration, "seconds": round(self.state.seconds, 2), **found}

    def _tasks(self, role: str, config: TaskConfig, count: int) -> list[Task]:
        """Those of an evaluation. Their file is read once, their images each time."""
        if role not in self.looked_at:
            self.looked_at[role] = load_tasks(config)
        return first_tasks(self.looked_at[role], count)

    def _draw(self, batch: Batch) -> None:
        if not self.processes.main:
            return
        members = self.recipe.rollout.members
        rows = []
        for place, task in enumerate(batch.tasks[:_GRID_ROWS]):
            part = slice(place * members, (place + 1) * members)
            rows.append(Row(task.source, task.instruction, batch.images[part], self._last_scores[part]))
        path = self.folder / "grids" / f"iteration-{self.state.iteration:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grid(rows).save(path)

    def _save(self) -> None:
        states.save(self.state, self.folder, self.processes)


def _rows(unreadable: Mapping[str, str]) -> str:
    """For people."""
    row, why = next(iter(unreadable.items()))
    rows = f"row {row} is" if len(unreadable) == 1 else f"{len(unreadable)} rows, the first {row}, are"
    return f"data: {rows} left out: {why}"


def train(recipe: Recipe, folder: Path, resume: bool = False, on_log: Listener | None = None) -> Result:
    """Everything that `recipe` says, into `folder`; in each process of several the same call."""
    check_roles(recipe.roles)
    load_algorithm(recipe)
    accelerator = Accelerator(mixed_precision="no")  # autocast is ours: rollout and replay must compute alike
    processes = Processes()
    with processes.together():
        roles, tasks = load_roles(recipe.roles), load_tasks(recipe.data)  # first: what is missing is said at once
        editor = load_editor(recipe.editor, device=accelerator.device)
        trainer = Trainer(recipe, editor, roles, tasks, folder, accelerator, on_log, processes)
        trainer.fit(resume)
        result = trainer.finish()
    accelerator.end_training()
    return result


def run(recipe: dict[str, Any], folder: Path, resume: bool) -> None:
    """The entry of `mmreward train` for `task: reward` (and `task: grpo`, its older name)."""
    train(read_config(Recipe, recipe), folder, resume)
