"""What trains the tiny judge: a fast forward pass over its own weights, dense helper heads, and the loss.

`JudgeTrainer` holds the model of transformers and computes the same numbers as its forward (a test compares them), laid
out for training on a CPU: images in one batch, all candidates and questions of a group behind one prefix, attention by
plain matrix products, the last layer only where an answer is read. The heads are linear and never leave the recipe:

- on the vision features: what stands at each place, the background, how far the place is from a clean rendering;
- on the source's tokens two layers before the end: what should stand at each place after the edit (the instruction
  comes first, so they can know);
- on the candidate's tokens there: what stands, what should stand, and whether each agrees with the other and with the
  source.

Loss = cross-entropy of the answer tokens against what the oracle would answer (see `judge_asks`; the full vocabulary is
in the softmax), summed over scores, means of checks and of comparisons + a decaying weight x the heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmreward.fit.judge_asks import Ask, Frame, compared, true_answers
from mmreward.fit.judge_data import JudgeBatch
from mmreward.fit.judge_layers import Branch, attend, block_of, keys_of, norm, positions, rotate
from mmreward.training import Loss

__all__ = ["JudgeTrainer"]

_LOOK = (7, 9, 3)  # shapes, colours, sizes, each with "empty"
_GROUND = (4, 6)  # kinds and colours of backgrounds


class JudgeTrainer(nn.Module):
    """The model and its helper heads; `loss(batch)`, and `scores(batch)` for validation."""

    judge: Any  # a Qwen2_5_VLForConditionalGeneration, whose parts have no types

    def __init__(self, judge: Any, frame: Frame, dense_steps: int, compiled: bool = False) -> None:
        super().__init__()
        self.judge, self.frame, self.dense_steps = judge, frame, dense_steps
        hidden = judge.config.text_config.hidden_size
        self.see_head = nn.Linear(hidden, sum(_LOOK) + sum(_GROUND) + 1)
        self.plan_head = nn.Linear(hidden, sum(_LOOK) + sum(_GROUND))
        self.check_head = nn.Linear(hidden, 2 * sum(_LOOK) + 2 * sum(_GROUND) + 4)
        self._run = torch.compile(self._forward, dynamic=False) if compiled else self._forward

    def loss(self, module: nn.Module, batch: JudgeBatch) -> Loss:
        """The loss of a batch and its parts (for `mmreward.training.fit`)."""
        see, plan, check, answers, versus = self._run(
            batch.text, batch.text_mask, batch.pixels, batch.asked, batch.pairs
        )
        dense = self._see_loss(see.float(), batch) + self._plan_loss(plan.float(), batch)
        log = {"dense": float(dense.detach())}
        if answers is None or check is None:
            return Loss(dense, log)
        checked = self._check_loss(check.float(), batch)
        targets = [true_answers(ask, batch.labels) for ask in self.frame.asks[: batch.asked]]
        told = _surprise(answers, self.frame.asks, targets)
        scores = self.frame.scores
        total = told[:scores].sum()
        log |= {"check": float(checked.detach()), "answers": float(told[:scores].detach().mean())}
        if batch.asked > scores:
            total = total + 2 * told[scores:].mean()
            log["checks"] = float(told[scores:].detach().mean())
        if versus is not None and batch.pairs is not None:
            rows = torch.arange(len(batch.labels))[:, None]
            first, second = batch.labels[rows, batch.pairs[..., 0]], batch.labels[rows, batch.pairs[..., 1]]
            won = _surprise(versus, self.frame.pair_asks, [compared(a, first, second) for a in self.frame.pair_asks])
            total = total + 2 * won.mean()
            log["pairs"] = float(won.detach().mean())
        weight = max(0.15, 1 - batch.step / max(self.dense_steps, 1))
        return Loss(total + weight * (dense + checked), log)

    @torch.no_grad()
    def scores(self, batch: JudgeBatch) -> Tensor:
        """Expected scores [G, K, 3] in [0, 1]."""
        found = self.answers(batch)[0]
        picked = [told @ torch.linspace(0, 1, told.shape[-1]) for told in found[: self.frame.scores]]
        return torch.stack(picked, -1)

    @torch.no_grad()
    def answers(self, batch: JudgeBatch) -> tuple[list[Tensor], list[Tensor]]:
        """Probabilities of the labels of each question: about each candidate [G, K, L], about each pair [G, M, 2]."""
        _, _, _, answers, versus = self._forward(batch.text, batch.text_mask, batch.pixels, batch.asked, batch.pairs)
        assert answers is not None  # the questions were asked
        found = [_label_shares(answers[..., i, :], ask) for i, ask in enumerate(self.frame.asks[: batch.asked])]
        if versus is None:
            return found, []
        return found, [_label_shares(versus[..., i, :], ask) for i, ask in enumerate(self.frame.pair_asks)]

    def _see_loss(self, see: Tensor, batch: JudgeBatch) -> Tensor:
        look, ground, damage = see.split([sum(_LOOK), sum(_GROUND), 1], -1)
        residual = (batch.residual / 0.15).clamp(max=1.5)
        return (
            _entropy(look, _LOOK, batch.places[:, :-1])
            + 0.5 * _entropy(ground, _GROUND, batch.ground[:, :-1, None].expand(-1, -1, 9, -1))
            + 2 * F.smooth_l1_loss(damage[..., 0], residual, beta=0.1)
        )

    def _plan_loss(self, plan: Tensor, batch: JudgeBatch) -> Tensor:
        look, ground = plan.split([sum(_LOOK), sum(_GROUND)], -1)
        wanted = _entropy(look, _LOOK, batch.places[:, -1])
        return wanted + 0.5 * _entropy(ground, _GROUND, batch.ground[:, -1, None].expand(-1, 9, -1))

    def _check_loss(self, check: Tensor, batch: JudgeBatch) -> Tensor:
        seen, wanted, flags = check.split([sum(_LOOK) + sum(_GROUND)] * 2 + [4], -1)
        source, edited, target = batch.places[:, :1], batch.places[:, 1:-1], batch.places[:, -1:]
        grounds = batch.ground[:, 1:-1], batch.ground[:, -1:].expand_as(batch.ground[:, 1:-1])
        total = flags.new_zeros(())
        for logits, places, ground in ((seen, edited, grounds[0]), (wanted, target.expand_as(edited), grounds[1])):
            look, rest = logits.split([sum(_LOOK), sum(_GROUND)], -1)
            total = total + _entropy(look, _LOOK, places)
            total = total + 0.5 * _entropy(rest, _GROUND, ground[:, :, None].expand(-1, -1, 9, -1))
        truths = torch.stack(
            [
                (edited == source).all(-1),
                (edited == target).all(-1),
                (source == target).all(-1).expand(edited.shape[:-1]),
                (batch.ground[:, 1:-1] == batch.ground[:, -1:]).all(-1)[..., None].expand(edited.shape[:-1]),
            ],
            -1,
        )
        return total + 2 * F.binary_cross_entropy_with_logits(flags, truths.float())

    def _forward(
        self, text: Tensor, text_mask: Tensor, pixels: Tensor, asked: int, pairs: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Logits of the heads, of the answers [G, K, asked, V] and of the comparisons [G, M, Q, V]; the latter three
        only where questions are put.
        """
        features = self._look(pixels)  # [G, 1 + K, 9, D]
        model = self.judge.model.language_model
        shared = torch.cat([F.embedding(text, model.embed_tokens.weight), self._shown(features[:, 0])], 1).float()
        length = shared.shape[1]
        known = F.pad(text_mask, (0, 11), value=True)  # [G, P]
        image_at = length - 10
        own = torch.ones(length, length, dtype=torch.bool).tril()
        # A padded row attends to itself, so that no softmax is empty.
        shared_mask = (known[:, None] & own | torch.eye(length, dtype=torch.bool))[:, None]
        shared_turn = self._turn(positions(length, image_at))
        see = self.see_head(features)
        check_at = len(model.layers) - 2

        if not asked:
            for layer in model.layers[:check_at]:
                shared = block_of(layer, shared, shared_turn, shared_mask)
            return see, self.plan_head(norm(shared[:, image_at : image_at + 9], 1e-6)), None, None, None

        shown = self._shown(features[:, 1:])
        alone = self._branch(shown, self.frame.asks[:asked], known)
        both = None
        if pairs is not None:
            rows = torch.arange(len(pairs))[:, None]
            together = torch.cat([shown[rows, pairs[..., 0]], shown[rows, pairs[..., 1]]], 2)
            both = self._branch(together, self.frame.pair_asks, known)
        plan, check = torch.empty(0), None  # set below, before the last layers
        for number, layer in enumerate(model.layers):
            if number == check_at:
                plan = self.plan_head(norm(shared[:, image_at : image_at + 9], 1e-6))
                check = self.check_head(norm(alone.x[:, :, 1:10], 1e-6))
            last = number == len(model.layers) - 1
            keys, values = keys_of(layer, shared, shared_turn)
            for branch in (alone, both):
                if branch:
                    branch.layer(layer, keys, values, last)
            if not last:
                shared = block_of(layer, shared, shared_turn, shared_mask, (keys, values))
        return see, plan, check, self._told(alone), self._told(both) if both else None

    def _told(self, branch: Branch) -> Tensor:
        last = self.judge.model.language_model.norm
        x = norm(branch.x, last.variance_epsilon) * last.weight
        return F.linear(x, self.judge.model.language_model.embed_tokens.weight)

    def _shown(self, features: Tensor) -> Tensor:
        """An image as it stands in the text: features [..., 9, D] between the marks of its ends [..., 11, D]."""
        marks = self.judge.model.language_model.embed_tokens.weight[list(self.frame.image)]
        start, end = (mark.expand(*features.shape[:-2], 1, -1) for mark in marks)
        return torch.cat([start, features, end], -2)

    def _branch(self, shown: Tensor, asks: tuple[Ask, ...], known: Tensor) -> Branch:
        """Images [G, N, 11 or 22, D] with questions behind them, which do not see each other."""
        lengths = [len(ask.tokens) for ask in asks]
        embed = self.judge.model.language_model.embed_tokens.weight
        words = embed[[token for ask in asks for token in ask.tokens]].expand(*shown.shape[:2], -1, -1)
        width = shown.shape[2]
        begin = known.shape[1] - 6  # the source image counts 3 positions for its 9 tokens
        places = [positions(11, 1) + begin + 5 * i for i in range(width // 11)]
        after = begin + 5 * len(places)
        places += [torch.arange(length).expand(3, -1) + after for length in lengths]
        owner = torch.tensor([0] * width + [i + 1 for i, length in enumerate(lengths) for _ in range(length)])
        order = torch.ones(len(owner), len(owner), dtype=torch.bool).tril()
        tree = order & ((owner[:, None] == owner) | (owner == 0))
        prefix = known[:, None, None, None].expand(-1, shown.shape[1], 1, len(owner), -1)
        return Branch(
            torch.cat([shown, words], 2).float(),
            self._turn(torch.cat(places, 1)),
            torch.cat([prefix, tree.expand(*shown.shape[:2], 1, -1, -1)], -1),
            torch.tensor(lengths).cumsum(0) + width - 1,
        )

    def _look(self, pixels: Tensor) -> Tensor:
        """Vision features [..., 9, D] of patches [..., 36, 363]; every block attends to the whole image."""
        tower = self.judge.model.visual
        weight = tower.patch_embed.proj.weight.sum(2)  # both frames of an image are the same
        x = F.linear(pixels, weight.flatten(1)).float()
        side = torch.arange(3).repeat_interleave(12) * 2 + torch.arange(4).div(2, rounding_mode="floor").repeat(9)
        across = torch.arange(3).repeat_interleave(4).repeat(3) * 2 + torch.arange(2).repeat(18)
        angles = torch.stack([side, across], 1)[..., None] * tower.rotary_pos_emb.inv_freq
        angles = angles.flatten(1).repeat(1, 2)
        turn = angles.cos(), angles.sin()
        for block in tower.blocks:
            attention = block.attn
            y = norm(x, 1e-6) * block.norm1.weight
            heads = attention.qkv(y).unflatten(-1, (3, attention.num_heads, -1))
            query, key, value = (part.transpose(-2, -3) for part in heads.unbind(-3))
            found = attend(rotate(query, turn), rotate(key, turn), value, None)
            x = x + attention.proj(found.transpose(-2, -3).flatten(-2))
            x = x + block.mlp(norm(x, 1e-6) * block.norm2.weight)
        merger = tower.merger
        return merger.mlp((norm(x, 1e-6) * merger.ln_q.weight).unflatten(-2, (9, 4)).flatten(-2))

    def _turn(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [N, 32] of M-RoPE for positions [3, N]."""
        rotary = self.judge.model.language_model.rotary_emb
        angles = positions[..., None] * rotary.inv_freq
        sections = angles.split(rotary.mrope_section, -1)
        mixed = torch.cat([part[i % 3] for i, part in enumerate(sections)], -1).repeat(1, 2)
        return mixed.cos(), mixed.sin()


def _label_shares(logits: Tensor, ask: Ask) -> Tensor:
    """Probabilities of an answer's labels among each other [..., L] from logits [..., V]."""
    return logits.float()[..., list(ask.labels)].softmax(-1)


def _surprise(logits: Tensor, asks: tuple[Ask, ...], targets: list[Tensor]) -> Tensor:
    """Cross-entropy above the target's own entropy of each question [Q]; logits [G, N, Q, V], targets [G, N, L]."""
    log_probabilities = logits.float().log_softmax(-1)
    found = []
    for i, target in enumerate(targets):
        told = log_probabilities[..., i, :][..., list(asks[i].labels)]
        found.append((torch.special.xlogy(target, target) - target * told).sum(-1).mean())
    return torch.stack(found)


def _entropy(logits: Tensor, sizes: tuple[int, ...], labels: Tensor) -> Tensor:
    """Sum of the mean cross-entropies of several choices laid side by side in the last axis."""
    parts = zip(logits.split(sizes, -1), labels.unbind(-1), strict=True)
    return torch.stack([F.cross_entropy(part.flatten(0, -2), label.flatten()) for part, label in parts]).sum()
