"""What the trainer adds to the bare tensor work of an iteration.

    python tests/speed/grpo_iteration.py --iterations 5

Runs whole iterations of the recipe `grpo-tiny`, and between them the plain loop of the same work: the rollout's forward
passes, decoding, the reward, training forward and backward (the anchor's too), the optimiser's step. Prints seconds per
part and the ratio.
"""

__all__ = ["main"]

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from app.commands.train import find_recipe, read_recipe
from app.quiet import quiet
from editing.collect import Batch
from editing.data import load_tasks
from editing.editors import load_editor
from editing.editors.editor import Condition
from editing.recipe import Recipe
from editing.roles import load_roles
from editing.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], help="changes of the recipe, key=value")
    options = parser.parse_args()
    quiet()
    settings = read_recipe(find_recipe("grpo-tiny"), [*options.set, "roles.final=null"])
    settings.pop("task")
    recipe = Recipe.model_validate(settings)
    parts = load_editor(recipe.editor), load_roles(recipe.roles), load_tasks(recipe.data)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe, *parts, Path(folder), Accelerator(mixed_precision="no"))
        trainer.step()  # warms up, and measures the reward's repeat noise
        whole, plain, timings = [], [], []
        for _ in range(options.iterations):
            started = time.perf_counter()
            batch, entry = trainer.step()
            whole.append(time.perf_counter() - started)
            timings.append(entry["timing"])
            trainer.state.iteration += 1
            started = time.perf_counter()
            bare(trainer, batch)
            plain.append(time.perf_counter() - started)
    for name in timings[0]:
        print(f"{name:8} {statistics.median(timing[name] for timing in timings):7.3f} s")
    ours, bare_time = statistics.median(whole), statistics.median(plain)
    print(f"iteration {ours:.2f} s, plain loop {bare_time:.2f} s, ratio {ours / bare_time:.3f}")


def bare(trainer: Trainer, batch: Batch) -> None:
    """The same tensor work with nothing around it."""
    editor, recipe = trainer.editor, trainer.recipe
    condition, sigmas = batch.condition, batch.trajectory.sigmas
    x = torch.randn_like(batch.trajectory.final)
    with torch.no_grad(), trainer.precision.forward():
        for step in range(recipe.rollout.steps):
            for start in range(0, len(x), recipe.rollout.batch):
                rows = slice(start, start + recipe.rollout.batch)
                editor.predict(x[rows], float(sigmas[step]), condition.select(rows))
        editor.decode(x, condition)
    trainer.roles.reward.score(batch.edits)
    for share in torch.arange(len(x)).tensor_split(recipe.loop.updates):
        for part in share.split(recipe.loop.micro_batch):
            for step in batch.trajectory.window:
                with trainer.precision.forward():
                    found = editor.predict(x[part], float(sigmas[step]), condition.select(part))
                (found.x0.square().mean() * 0).backward()
        if recipe.anchor:
            hold(trainer, condition, x, share[:: recipe.anchor.every])
        trainer.updater.optimizers.step(0.0)


def hold(trainer: Trainer, condition: Condition, x: torch.Tensor, rows: torch.Tensor) -> None:
    """The anchor's passes: one without gradient, one with."""
    for part in rows.split(trainer.recipe.loop.micro_batch):
        with trainer.precision.forward():
            with torch.no_grad():
                trainer.editor.predict(x[part], 0.5, condition.select(part))
            found = trainer.editor.predict(x[part], 0.5, condition.select(part))
        (found.x0.square().mean() * 0).backward()


if __name__ == "__main__":
    main()
