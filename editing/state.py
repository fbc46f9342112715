"""All that a run is made of between two iterations, as a checkpoint and back.

Written by the first process alone, in whole tensors; random state and counts are the same in all of them. So a resumed
run equals one that was never stopped, bit for bit on a CPU, and may go on with another number of processes.
"""

__all__ = ["State", "export", "restore", "save"]

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from editing.editors import load_editor
from editing.editors.editor import Editor
from editing.editors.lora import save_lora
from editing.editors.pipeline import PipelineEditor
from editing.processes import Processes
from editing.recipe import Recipe
from editing.scoring import Scoring
from editing.update import Updater
from editing.weights import Policies
from mmreward.config import ConfigError
from mmreward.training import check_weights, load_checkpoint, save_checkpoint
from mmreward.training.checkpoint import random_state, restore_random_state
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

    @property
    def fraction(self) -> float:
        """How much of the run is done."""
        loop = self.recipe.loop
        return self.seconds / (60 * loop.minutes) if loop.minutes else self.iteration / (loop.steps or 1)


def save(state: State, folder: Path, processes: Processes) -> None:
    """Checkpoint `state.iteration`, whole or not at all. All processes go on once it is written."""
    tensors, optimizers = state.updater.optimizers.pack()
    tables = {
        name: {key: whole(tensor, processes.main) for key, tensor in table.items()}
        for name, table in {**state.policies.tables(), **tensors}.items()
    }
    if processes.main:
        random_tensors, random_values = random_state()
        values: dict[str, Any] = {
            "updates": state.updater.updates,
            "skipped": state.updater.skipped,
            "seconds": state.seconds,
            "optimizers": optimizers,
            "random": random_values,
            "recipe": state.recipe.model_dump(mode="json"),
            **state.scoring.state(),
        }
        save_checkpoint(folder, state.iteration, {**tables, "random": random_tensors}, values)
    processes.gather(None)  # a slow disk must not use up the time-out of the others' next collective operation


def restore(state: State, folder: Path) -> bool:
    """Put back the newest checkpoint of `folder`; false where there is none."""
    found = load_checkpoint(folder)
    if found is None:
        return False
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
