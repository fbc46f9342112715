"""How scores and feedback enter an editor: the parameters that reward-conditioned fine-tuning adds to it.

A score in [0, 1] is a point on a chain of learned vectors, one per level: at 0.83 with six levels, 0.85 of the fifth
vector and 0.15 of the sixth. A score that is not said (NaN) has a vector of its own. From there it enters

- in the latent input: a shift of the source's latents, the same at every place, one number per channel;
- in the attention: a token per score, added to the last tokens of the text, which hold padding unless the instruction
  fills them;
- in the modulation, where the network has one that sees the pooled text (FLUX, SDXL): an addition to that, which every
  block hears.

Feedback text is encoded by the editor's own text encoder and added to the text token by token. All ways end in a
projection that starts at zero, so the editor starts exactly as it was, and without feedback nothing is added at all.

(After Multi-Reward as Condition, Gu et al., 2024, https://arxiv.org/abs/2411.04713, with learned levels in place of
sinusoids, and without new layers in the network, so that one form serves U-Nets and transformers.)
"""

__all__ = ["Additions", "Conditioner"]

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


class Additions(NamedTuple):
    """What is added to a condition of B rows."""

    shift: Tensor
    """To the source's latents, [B, channels]."""
    tokens: Tensor
    """To the text's last tokens, [B, D, text_width]."""
    pooled: Tensor | None
    """To the pooled text, [B, pooled_width]; None where there is none."""


class Conditioner(nn.Module):
    """From scores to a shift and tokens, from feedback to an addition to the text.

    Args:
        scores: their names, in the order of the columns.
        levels: learned vectors per score, at equal distances from 0 to 1.
        channels: of the source's latents.
        text_width: of the text's states.
        pooled_width: of the pooled text; 0: there is none.
        width: of the learned vectors.
    """

    def __init__(
        self,
        scores: Sequence[str],
        levels: int,
        channels: int,
        text_width: int,
        pooled_width: int = 0,
        width: int = 64,
    ) -> None:
        super().__init__()
        if not scores or len(set(scores)) != len(scores):
            raise ValueError(f"the names of scores must be different and at least one, got {list(scores)}")
        if levels < 2:
            raise ValueError(f"a score has at least 2 levels (0 and 1), got {levels}")
        self.scores, self.levels = tuple(scores), levels
        self.table = nn.Parameter(torch.randn(len(scores), levels + 1, width))
        self.to_source = nn.Linear(len(scores) * width, channels, bias=False)
        self.to_token = nn.Linear(width, text_width, bias=False)
        self.to_text = nn.Linear(text_width, text_width, bias=False)
        self.to_pooled = nn.Linear(len(scores) * width, pooled_width, bias=False) if pooled_width else None
        for layer in self.projections():
            nn.init.zeros_(layer.weight)

    def projections(self) -> list[nn.Linear]:
        """The layers that start at zero."""
        return [layer for layer in (self.to_source, self.to_token, self.to_text, self.to_pooled) if layer is not None]

    def forward(self, scores: Tensor) -> Additions:
        """Scores [B, D], NaN where not said."""
        vectors = torch.einsum("bdl,dlw->bdw", self.shares(scores), self.table)
        together = vectors.flatten(1)
        pooled = self.to_pooled(together) if self.to_pooled is not None else None
        return Additions(self.to_source(together), self.to_token(vectors), pooled)

    def shares(self, scores: Tensor) -> Tensor:
        """[B, D, levels + 1]: how much of each level's vector; the last is that of a score that is not said."""
        said = ~scores.isnan()
        place = scores.nan_to_num(0).clamp(0, 1) * (self.levels - 1)
        near = (1 - (place.unsqueeze(-1) - torch.arange(self.levels, device=scores.device)).abs()).clamp_min(0)
        return torch.cat([near * said.unsqueeze(-1), (~said).unsqueeze(-1).to(near.dtype)], dim=-1)

    def added(self, text: Tensor, tokens: Tensor, feedback: Tensor | None = None) -> Tensor:
        """`text` [B, L, text_width] with the scores' tokens on its last places and the feedback's states, as long as
        the text and zero where there is none, over all of it.
        """
        free = text.shape[1] - tokens.shape[1]
        if free < 0:
            raise ValueError(f"{tokens.shape[1]} scores do not fit into a text of {text.shape[1]} tokens")
        text = text + pad(tokens, (0, 0, free, 0)).to(text.dtype)
        return text if feedback is None else text + self.to_text(feedback.to(self.to_text.weight.dtype)).to(text.dtype)
