"""How far has the policy gone from its start? Kullback-Leibler divergence in nats, per sample.

    KL = E over samples of the policy  sum over steps, dimensions  (mean - mean_start)² / (2 std²)

of the stochastic sampler: the recipe's rule in every step but the last. Each step is a Gaussian, so its divergence is
known exactly, and only the path is sampled, from the same noise every time. It is a sum over dimensions, not a mean:
the unit in which over-optimisation is drawn (Gao et al., 2023, https://arxiv.org/abs/2210.10760).
"""

__all__ = ["kl_nats"]

from collections.abc import Sequence

import torch

from editing.collect import generator
from editing.data import Task
from editing.editors.editor import Editor
from editing.precision import Precision
from editing.recipe import RolloutConfig
from editing.rollout import replay, rollout, rules
from editing.transition import rule_from
from editing.weights import Policies


@torch.no_grad()
def kl_nats(
    editor: Editor,
    policies: Policies,
    tasks: Sequence[Task],
    config: RolloutConfig,
    precision: Precision,
) -> list[float]:
    """Of the present weights to the set "start", one sample a task; empty where the sampler has one step."""
    window = range(config.steps - 1)
    if not window:
        return []
    found: list[float] = []
    for task in tasks:
        condition = editor.collate(editor.encode([task.source], [task.instruction]))
        shape = condition.latent_shape
        x = editor.prior(f"divergence/{task.id}", 0, shape)[None]
        noise = generator(f"divergence/{task.id}", x.device)
        per_step = rules(rule_from(config.rule, config.eta), config.steps, window)
        with precision.forward():
            path = rollout(editor, condition, x, editor.schedule(config.steps, shape), per_step, window, noise)
            total = torch.zeros((), dtype=torch.float64, device=x.device)
            with policies.use("start"):
                for index in window:
                    start = replay(editor, condition, path, index)
                    distance = (path.mean[index] - start.mean).double().square() / (2 * start.std.double().square())
                    total += distance.sum()
        found.append(float(total))
    return found
