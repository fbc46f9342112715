"""One step of fine-tuning on scored triplets: what is drawn, what is left out, and the loss.

x = (1 - t) x0 + t eps; the loss of a triplet is the mean squared error of what the network predicts, its weight comes
from the method, and the loss of a batch is the mean of weight x loss. A conditioned editor is told the triplet's own
scores and feedback; a share of the rows has its scores not said, another its feedback left out, since at inference
nobody gives any. Editors that are guided by leaving out the instruction or the source go on learning to do without.
"""

__all__ = ["Batch", "ConditionedTraining", "Draw", "Dropout", "loss", "worst_scores"]

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from editing.attention import training_attention
from editing.editors.conditioned import Conditioned
from editing.editors.editor import Condition
from editing.editors.pipeline import PipelineEditor
from editing.fit.conditioned_data import Bucket, ScoredTriplets
from editing.fit.conditioned_family import Family
from mmreward.training import ConfigError, Loss


@dataclass(frozen=True)
class Batch:
    """B rows."""

    condition: Condition
    x: Tensor
    """[B, tokens, channels]."""
    t: Tensor
    """[B]."""
    wanted: Tensor
    """What the network should say, [B, tokens, channels]."""
    weights: Tensor
    """[B]."""
    scores: Tensor
    """[B, D], NaN: not said."""
    feedback: Tensor | None
    """[B, L, width], zero: none; None: none in the whole batch."""
    has_source: Tensor
    """[B], 0 where the source is left out."""


@dataclass(frozen=True)
class Dropout:
    """Shares of the rows of which something is left out."""

    scores: float = 0.0
    feedback: float = 0.0
    empty: float = 0.0
    """Without the instruction, without the source, and without both, each; for editors that are guided so."""


class Draw:
    """Batches by number. `weights` [N] in the order of the data; a triplet of weight 0 is never drawn, and the others
    are drawn alike, their weights scaled to a mean of 1. `share`: the rows of each batch that are this process's; None
    for all.
    """

    def __init__(
        self,
        data: ScoredTriplets,
        weights: Tensor,
        family: Family,
        dropout: Dropout,
        batch: int,
        seed: int,
        share: range | None = None,
    ) -> None:
        if not bool((weights > 0).any()):
            raise ConfigError("no triplet has a score, so there is nothing to train on; look at the table's `status`")
        self.data, self.family, self.dropout, self.batch, self.seed = data, family, dropout, batch, seed
        self.share = slice(share.start, share.stop) if share else slice(None)
        scaled = weights / weights[weights > 0].mean()
        self.weights = scaled.split([len(bucket.overall) for bucket in data.buckets])
        self.rows = [weight.nonzero().flatten() for weight in self.weights]

    def __call__(self, step: int) -> Batch:
        """Batch number `step`; a batch has one resolution."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        counts = torch.tensor([float(len(rows)) for rows in self.rows])
        number = int(torch.multinomial(counts, 1, generator=generator))
        rows = self.rows[number][torch.randint(len(self.rows[number]), (self.batch,), generator=generator)]
        bucket = self.data.buckets[number]
        x0 = bucket.target[rows].float()
        t = self.family.levels(self.batch, generator)
        eps = torch.randn(x0.shape, generator=generator)
        left_out = torch.rand(3, self.batch, generator=generator)[:, self.share]
        rows, x0, t, eps = rows[self.share], x0[self.share], t[self.share], eps[self.share]
        scores = bucket.scores[rows].clone()
        scores[left_out[0] < self.dropout.scores] = torch.nan
        share = self.dropout.empty if self.data.empty else 0.0
        level = t.view(-1, 1, 1)
        return Batch(
            condition=self._condition(bucket, rows, left_out[2] < 2 * share),
            x=(1 - level) * x0 + level * eps,
            t=t,
            wanted=self.family.learned(x0, eps, t),
            weights=self.weights[number][rows],
            scores=scores,
            feedback=_feedback(bucket, rows, left_out[1] >= self.dropout.feedback),
            has_source=1.0 - ((left_out[2] >= share) & (left_out[2] < 3 * share)).float(),
        )

    def _condition(self, bucket: Bucket, rows: Tensor, no_text: Tensor) -> Condition:
        condition = bucket.condition.select(rows)
        tensors = {name: tensor.float() for name, tensor in condition.tensors.items()}
        for name, empty in self.data.empty.items():
            tensors[name][no_text] = empty.float()
        return replace(condition, tensors=tensors)


def _feedback(bucket: Bucket, rows: Tensor, kept: Tensor) -> Tensor | None:
    if bucket.feedback is None:
        return None
    number = bucket.feedback_row[rows]
    has = (number >= 0) & kept
    return bucket.feedback[number.clamp_min(0)].float() * has.view(-1, 1, 1)


class ConditionedTraining(nn.Module):
    """What learns: the network (or its LoRA), and the conditioner of a conditioned editor."""

    def __init__(self, editor: PipelineEditor, family: Family) -> None:
        super().__init__()
        self.editor, self.family = editor, family
        self.network = editor.module
        if isinstance(editor, Conditioned):
            self.conditioner = editor.conditioner.requires_grad_(True)

    def forward(self, batch: Batch) -> Tensor:
        """What the network says, float32 [B, tokens, channels]."""
        editor, condition = self.editor, batch.condition
        if isinstance(editor, Conditioned):
            condition = editor.given(condition, batch.scores, batch.feedback)
        source = condition.tensors["source"]
        kept = batch.has_source.view(-1, *(1,) * (source.ndim - 1)).to(source.dtype)
        condition = replace(condition, tensors={**condition.tensors, "source": source * kept})
        predict = editor.predict_given if isinstance(editor, Conditioned) else editor.predict
        found = predict(batch.x, batch.t, condition)
        return self.family.learned(found.x0, found.eps, batch.t)


def loss(module: nn.Module, batch: Batch) -> Loss:
    """Mean of weight x squared error."""
    with training_attention(batch.x.device):
        errors = (module(batch) - batch.wanted).square().mean(dim=(1, 2))
    return Loss((batch.weights * errors).mean())


def worst_scores(data: ScoredTriplets, names: Sequence[str], share: float) -> dict[str, float]:
    """Mean scores of the worst `share` of the triplets by overall: what guidance leads away from."""
    overall = data.overall
    scored = (~overall.isnan()).nonzero().flatten()
    worst = scored[overall[scored].argsort(stable=True)[: max(int(share * len(scored)), 1)]]
    means = data.scores[worst].nanmean(dim=0).nan_to_num(0.0)
    return dict(zip(names, means.tolist(), strict=True))
