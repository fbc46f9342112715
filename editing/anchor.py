"""Hold the last steps of sampling where they were.

Noise in the updates moves what the network predicts at every step. At the steps inside the window the reward pulls it
right again; at the last ones, which make the details, nothing does, and the walk ruins the quality of the images
(measured with the bundled editor: sampled with the starting weights in the last three of eight steps, an editor trained
without an anchor has .059 more success than with its own). So these are tied to the starting weights:

    loss += weight * mean over a share of the samples of (v - v_start)^2

with both velocities at the clean sample noised anew to one of the last `steps` levels of the sampler. The distance is
that of the KL term of Flow-GRPO (Liu et al., 2025, https://arxiv.org/abs/2505.05470) without its 1 / (2 std^2), for
these steps have no noise.
"""

__all__ = ["Anchor"]

import torch
from torch import Tensor

from editing.collect import Batch
from editing.editors.editor import Editor
from editing.examples import draw
from editing.precision import Precision
from editing.recipe import AnchorConfig
from editing.weights import Policies


class Anchor:
    """Distances from the starting weights. The noise belongs to (seed, iteration, task, member) alone."""

    def __init__(
        self, editor: Editor, policies: Policies, config: AnchorConfig, precision: Precision, seed: int
    ) -> None:
        self.editor, self.policies, self.config, self.precision, self.seed = editor, policies, config, precision, seed

    def distance(self, batch: Batch, rows: Tensor, iteration: int) -> Tensor:
        """[B], mean square difference of the velocities of the present policy, with gradient, and of the start."""
        condition, x0 = batch.condition.select(rows), batch.trajectory.final[rows]
        last = batch.trajectory.sigmas[-1 - self.config.steps : -1]
        t, noise = draw(batch, rows, last, "anchor", self.seed, iteration)
        levels = t.view(-1, *(1,) * (x0.ndim - 1))
        x = (1 - levels) * x0 + levels * noise
        with self.policies.use("start"), torch.no_grad(), self.precision.forward():
            start = self.editor.predict(x, t, condition).x0
        with self.precision.forward():
            present = self.editor.predict(x, t, condition).x0
        return ((present - start) / levels).square().flatten(1).mean(1)
