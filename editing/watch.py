"""Looking at a policy from outside: the monitor during a run, the final measure after it, divergence from the start.

What is looked at is what will be saved: the averaged weights, where there are any. Several processes share the tasks.
"""

__all__ = ["Watch"]

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from editing.data import Task
from editing.deal import batches
from editing.divergence import kl_nats
from editing.editors.editor import Editor
from editing.evaluation import Evaluation, evaluate
from editing.precision import Precision
from editing.processes import Processes
from editing.recipe import Recipe
from editing.scoring import all_scores
from editing.weights import Policies
from mmreward.reward import Reward
from mmreward.training import TrainingError

_DIVERGENCE_TASKS = 8


class Watch:
    def __init__(
        self,
        recipe: Recipe,
        editor: Editor,
        policies: Policies,
        processes: Processes,
        precision: Precision,
    ) -> None:
        self.recipe, self.editor, self.policies = recipe, editor, policies
        self.processes, self.precision = processes, precision

    def best(self) -> AbstractContextManager[None]:
        """The module has the weights that will be saved inside the `with`."""
        policy = self.recipe.policy
        return self.policies.use("ema", policy.keep) if policy.ema else nullcontext()

    def monitor(self, tasks: Sequence[Task], reward: Reward) -> dict[str, Any]:
        """What the log says of the best weights."""
        few = tasks[:_DIVERGENCE_TASKS]
        mine, fillers = self._share(few)
        with self.best():
            looked = self.evaluate(tasks, reward)
            if all(self.processes.gather(all(image is None for image in looked.images))):
                reason = looked.scores[0].error
                raise TrainingError(f"the editor made none of the monitor's {len(tasks)} edits: {reason}")
            found = {**looked.summary(), "values": looked.values}
            share = [few[row] for row in mine + fillers]
            nats = kl_nats(self.editor, self.policies, share, self.recipe.rollout, self.precision)[: len(mine)]
        nats = [value for values in self.processes.gather(nats) for value in values]
        return {**found, "kl_nats": math.fsum(nats) / len(nats)} if nats else found

    def evaluate(self, tasks: Sequence[Task], reward: Reward) -> Evaluation:
        """Edits of `tasks` with paired noise, scored by `reward`: the scores of all, and this process's images."""
        config = self.recipe.rollout
        mine, fillers = self._share(tasks)
        share = [tasks[row] for row in mine + fillers]
        found = evaluate(self.editor, share, reward, config.steps, batch=config.batch, precision=self.precision)
        scores = all_scores(self.processes, found.scores[: len(mine)])
        rows = [row for rows in self.processes.gather(mine) for row in rows]
        ordered = [score for _, score in sorted(zip(rows, scores, strict=True), key=lambda pair: pair[0])]
        return Evaluation(tuple(ordered), found.images[: len(mine)])

    def _share(self, tasks: Sequence[Task]) -> tuple[list[int], list[int]]:
        """The numbers of this process's tasks, and of those that fill up its share. Shares have as many of each size as
        the others': a network that is spread over the processes must be called equally often in each.
        """
        mine, fillers = [], []
        for pile in batches([self.editor.edit_size(*task.source.size) for task in tasks], len(tasks)):
            shares = self.processes.shares(len(pile))
            own = shares[self.processes.rank]
            mine += [pile[place] for place in own]
            fillers += [pile[0]] * (max(map(len, shares)) - len(own))
        return sorted(mine), fillers
