"""One small iteration, for real: what the parts of an iteration take on this machine.

A few groups go through the trainer itself (editor, reward, updates), uncompiled and in memory alone: twice, since the
first time makes caches. Of an iteration with more groups each part takes as much longer as it has more to do.
"""

__all__ = ["COMPILED", "predictions", "seconds_of_parts", "window_places"]

from pathlib import Path

import torch
from accelerate import Accelerator

from editing.data import load_tasks
from editing.editors import load_editor
from editing.recipe import Recipe, RolloutConfig
from editing.roles import Roles
from mmreward.reward import Reward
from mmreward.training.compiled import lacking

COMPILED = {"sample": 1.9, "update": 1.3}
"""Times as fast that compiling makes the bundled editor on a CPU: forward, and forward and backward."""
_ROWS = 32
"""Samples of a small iteration on a CPU, where more at once are no faster; on a GPU it is a full batch."""
_PATIENCE = 10.0
"""Seconds that the timed iteration may take, by estimate."""


def predictions(rollout: RolloutConfig, iteration: int) -> int:
    """Samples that pass through the network while an iteration samples, each step for itself; the steps that the
    members of a group share count once.
    """
    shared = rollout.window_of(iteration).start if rollout.start == "shared" else 0
    return rollout.groups * (shared + rollout.members * (rollout.steps - shared))


def seconds_of_parts(recipe: Recipe, reward: Reward, device: torch.device, estimate: float) -> dict[str, float] | None:
    """Seconds of each part of an iteration, as the log's `timing` names them: an iteration of the middle, as far as the
    place of the window goes. None where even one group takes too long.

    Args:
        estimate: seconds of an iteration, to choose how many groups are tried.
    """
    rollout = recipe.rollout
    rows = _ROWS if device.type == "cpu" else max(_ROWS, rollout.batch)
    affordable = int(rollout.groups * _PATIENCE / max(estimate, 1e-9))
    groups = min(rollout.groups, max(1, rows // rollout.members), affordable)
    if groups < max(1, -(-recipe.loop.updates // rollout.members)) or recipe.policy.shard:
        return None
    small = recipe.model_copy(
        update={
            "rollout": rollout.model_copy(update={"groups": groups}),
            "loop": recipe.loop.model_copy(update={"compile": False, "overlap": False}),
        }
    )
    middle = window_places(rollout) // 2
    timed = _timed(small, reward, device, middle)
    mean = sum(predictions(rollout, place) for place in range(window_places(rollout))) / window_places(rollout)
    shares = {name: rollout.groups / groups for name in timed}
    shares["sample"] = mean / predictions(small.rollout, middle)
    if recipe.loop.compile and device.type == "cpu" and not lacking():
        shares |= {name: shares[name] / times for name, times in COMPILED.items()}
    return {name: seconds * shares[name] for name, seconds in timed.items()}


def window_places(rollout: RolloutConfig) -> int:
    """Iterations after which the window is at its first place again."""
    return rollout.trained - rollout.window + 1 if rollout.place == "sliding" else 1


def _timed(recipe: Recipe, reward: Reward, device: torch.device, iteration: int) -> dict[str, float]:
    """What the trainer's clock says of the second of two equal iterations."""
    from editing.trainer import Trainer

    editor = load_editor(recipe.editor, device=device)
    accelerator = Accelerator(mixed_precision="no")
    roles = Roles(reward=reward, monitor=reward, final=None)
    trainer = Trainer(recipe, editor, roles, load_tasks(recipe.data), Path("nowhere"), accelerator)
    trainer.state.iteration = iteration
    trainer.step()
    _, entry = trainer.step()
    return dict(entry["timing"])
