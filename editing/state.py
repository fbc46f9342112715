"""All that a run is made of between two iterations, as a checkpoint and back.

Written by the first process alone, in whole tensors; random state and counts are the same in all of them. So a resumed
run equals one that was never stopped, bit for bit on a CPU, and may go on with another number of processes.
"""

__all__ = ["Counters", "State", "counters", "export", "restore", "save"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from editing.editors import load_editor
from editing.editors.editor import Editor
from editing.editors.lora import save_lora
from editing.editors.pipeline import PipelineEditor
from editing.processes import Processes
from editing.recipe import Recipe
from editing.resume import check_same_run
from editing.scoring import Scoring
from editing.update import Updater
from editing.weights import Policies
from mmreward.config import ConfigError
from mmreward.training import check_weights, load_checkpoint, save_checkpoint
from mmreward.training.checkpoint import latest_checkpoint, random_state, restore_random_state
from mmreward.training.sharded import like, whole


@dataclass
class State:
    """What moves in a run: counters here, weights and optimisers in the parts that own them."""

    recipe: Recipe
    policies: Policies
    updater: Updater
    scoring: Scoring
    iteration: int = 0
    seconds: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)
    """Rows of the data that were left out so far: id -> why."""

    @property
    def fraction(self) -> float:
        """How much of the run is done."""
        loop = self.recipe.loop
        return self.seconds / (60 * loop.minutes) if loop.minutes else self.iteration / (loop.steps or 1)


@dataclass(frozen=True)
class Counters:
    """What is neither weights nor optimiser. Those of the beginning of an iteration go with the weights until its first
    update.
    """

    values: Mapping[str, Any]
    random: Mapping[str, Any]


def counters(state: State) -> Counters:
    """Those of now."""
    updater = state.updater
    tensors, random = random_state()
    values = {
        "updates": updater.updates,
        "skipped": updater.skipped,
        "skipped_in_a_row": updater.skipped_in_a_row,
        "seconds": state.seconds,
        "unreadable": dict(state.unreadable),
        "random": random,
        **state.scoring.state(),
    }
    return Counters(values, tensors)


def save(state: State, folder: Path, processes: Processes, at: Counters | None = None, alone: bool = False) -> None:
    """Checkpoint `state.iteration`, whole or not at all, with the counters `at` (None: of now). All processes go on
    once it is written; `alone` asks nothing of the others, for when they may be gone.
    """
    at = at or counters(state)
    tensors, optimizers = state.updater.optimizers.pack()
    tables = {
        name: {key: whole(tensor, processes.main) for key, tensor in table.items()}
        for name, table in {**state.policies.tables(), **tensors}.items()
    }
    if processes.main:
        values = {**at.values, "optimizers": optimizers, "recipe": state.recipe.model_dump(mode="json")}
        save_checkpoint(folder, state.iteration, {**tables, "random": at.random}, values)
    if not alone:
        processes.gather(None)  # a slow disk must not use up the time-out of the others' next collective operation


def restore(state: State, folder: Path, processes: Processes) -> bool:
    """Put back the newest checkpoint of `folder`; false where there is none. All processes must have the same one, and
    the recipe must be the one that it was made with.
    """
    steps = processes.gather(latest_checkpoint(folder))
    if any(step != steps[0] for step in steps):
        there = ", ".join(f"process {rank}: {'none' if step is None else step}" for rank, step in enumerate(steps))
        raise ConfigError(
            f"--resume: the processes find different checkpoints in {folder} ({there}). The first process writes them: "
            "put --out on a disk that all machines share, or copy the first one's folder to the others"
        )
    found = load_checkpoint(folder)
    if found is None:
        return False
    check_same_run(found.state["recipe"], state.recipe, found.path)
    tables = {}
    for name, table in state.policies.tables().items():
        if name not in found.tensors:
            raise ConfigError(f"{found.path} has no weights {name!r}: it was made with other policy settings")
        check_weights(table, found.tensors[name], found.path)
        tables[name] = {key: like(found.tensors[name][key], tensor) for key, tensor in table.items()}
    state.policies.restore(tables)
    state.updater.optimizers.unpack(found.tensors, found.state["optimizers"])
    restore_random_state(found.tensors["random"], found.state["random"])
    state.iteration, state.seconds = found.step, found.state["seconds"]
    state.updater.updates, state.updater.skipped = found.state["updates"], found.state["skipped"]
    state.updater.skipped_in_a_row = found.state.get("skipped_in_a_row", 0)
    state.unreadable = dict(found.state.get("unreadable", {}))
    state.scoring.restore(found.state)
    return True


def export(state: State, editor: Editor, folder: Path, processes: Processes) -> None:
    """The present weights as an editor in `folder` that loads like any other, and a LoRA in `lora` beside it; what of
    both is written says `policy.export`. All processes must call it.
    """
    config = state.recipe.policy
    trained = {name: whole(p, processes.main) for name, p in state.policies.tables()["policy"].items()}
    if not processes.main:
        return
    if "lora" in config.exports:
        save_lora(cast(PipelineEditor, editor), folder.with_name("lora"), weights=trained)
    if "model" in config.exports:
        if config.shard:  # the network lies in parts: put together what was trained, in a fresh copy of the rest
            editor = load_editor(state.recipe.editor)
            Policies.of(editor, config).restore({"policy": trained, "set_start": trained})
        editor.save(folder)
