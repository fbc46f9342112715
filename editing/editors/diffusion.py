"""What the epsilon- and v-predicting networks share: a table of noise levels, and the way to the straight line.

These models are trained in variance-preserving coordinates, y = sqrt(a) x0 + sqrt(1 - a) eps, on a table of a
(`alphas_cumprod`). The project's samplers and losses use the straight line x = (1 - t) x0 + t eps. The two are the same
sample on another scale, and the adapters are the only place that knows it:

    t = sqrt(1 - a) / (sqrt(a) + sqrt(1 - a))        y = x / sqrt((1 - t)² + t²)

So the deterministic step of a flow model, (1 - t') x0 + t' eps, is exactly the step of DDIM with eta 0, and CPS its
noisy form. Two things follow. The noisiest level of the table lies below 1 (0.936 for Stable Diffusion), unless the
table ends without signal: the schedule starts there, at the last training timestep ("trailing" spacing), and the prior
is the pipeline's unit noise on that scale. A level above it is predicted as if it were it, and a level between two
timesteps at the nearer one.

(Lin et al., 2023, https://arxiv.org/abs/2305.08891, for the spacing; Salimans and Ho, 2022,
https://arxiv.org/abs/2202.00512, for v.)
"""

__all__ = ["from_output", "scale", "table", "trailing_schedule", "unit_coordinates"]

from typing import Any

import torch
from torch import Tensor

from editing.editors.editor import Prediction


def table(scheduler: Any) -> tuple[str, Tensor]:
    """What the network predicts, and the noise levels t of the training timesteps, float32 [T], rising."""
    kind, prediction = type(scheduler).__name__, scheduler.config.get("prediction_type", "epsilon")
    if not hasattr(scheduler, "alphas_cumprod") or prediction not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"the pipeline's scheduler {kind} (prediction_type {prediction!r}) is not understood; expected one with "
            "alphas_cumprod that predicts epsilon or v_prediction, such as DDIMScheduler"
        )
    signal, noise = (scheduler.alphas_cumprod.double().sqrt(), (1 - scheduler.alphas_cumprod.double()).sqrt())
    if prediction == "epsilon" and not signal[-1] > 0:
        raise ValueError(
            f"the pipeline's scheduler {kind} ends without signal (rescale_betas_zero_snr) and its network predicts "
            "epsilon, from which nothing can be told there; expected v_prediction, or a table with signal left"
        )
    return prediction, (noise / (signal + noise)).float()


def scale(level: Tensor) -> Tensor:
    """Length of (1 - t, t): x is y times this."""
    return ((1 - level).square() + level.square()).sqrt()


def trailing_schedule(levels: Tensor, steps: int) -> Tensor:
    """Noise levels [steps + 1]: evenly spaced timesteps of the table that end at its last one, then 0."""
    count = len(levels)
    if steps > count:
        raise ValueError(f"{steps} steps, but the model was trained on {count} noise levels; ask for at most as many")
    timesteps = (torch.arange(steps, 0, -1, dtype=torch.float64) * count / steps).round().long() - 1
    return torch.cat([levels[timesteps], torch.zeros(1)])


def unit_coordinates(x: Tensor, level: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """y [B, tokens, channels], float32, and the training timesteps [B], of x at noise level [B]."""
    timestep = torch.bucketize(level.contiguous(), (levels[1:] + levels[:-1]) / 2)
    return x.float() / scale(level).view(-1, 1, 1), timestep


def from_output(x: Tensor, y: Tensor, out: Tensor, level: Tensor, levels: Tensor, prediction: str) -> Prediction:
    """Clean latents and noise, from what the network said of y: x, y, out [B, tokens, channels], level [B]."""
    known, level = level.clamp(max=float(levels[-1])).view(-1, 1, 1), level.view(-1, 1, 1)
    signal, noise = (1 - known) / scale(known), known / scale(known)
    x0 = (y - noise * out) / signal if prediction == "epsilon" else signal * y - noise * out
    return Prediction(x0, (x.float() - (1 - level) * x0) / level)
