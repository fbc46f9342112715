"""What the flow-matching transformers share: the shifted schedule, and clean latents and noise from a velocity.

x = (1 - t) x0 + t eps and v = eps - x0, so x0 = x - t v and eps = x + (1 - t) v.
"""

__all__ = ["from_velocity", "shifted_schedule"]

import copy
from typing import Any

import numpy as np
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from torch import Tensor

from editing.editors.editor import Prediction


def shifted_schedule(scheduler: Any, steps: int, tokens: int) -> Tensor:
    """Noise levels [steps + 1] of a `FlowMatchEulerDiscreteScheduler`, shifted by the number of tokens."""
    scheduler = copy.deepcopy(scheduler)
    mu = calculate_shift(
        tokens,
        scheduler.config.get("base_image_seq_len", 256),
        scheduler.config.get("max_image_seq_len", 4096),
        scheduler.config.get("base_shift", 0.5),
        scheduler.config.get("max_shift", 1.15),
    )
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return scheduler.sigmas.float().cpu()


def from_velocity(x: Tensor, v: Tensor, level: Tensor) -> Prediction:
    """x and v [B, tokens, channels], level [B]; all in float32."""
    noisy, v, level = x.float(), v.float(), level.float().view(-1, 1, 1)
    return Prediction(x0=noisy - level * v, eps=noisy + (1 - level) * v)
