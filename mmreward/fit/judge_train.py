"""What trains the tiny judge: a fast forward pass over its own weights, dense helper heads, and the loss.

`JudgeTrainer` holds the model of transformers and computes the same numbers as its forward (a test compares them), laid
out for training on a CPU: images in one batch, all candidates and questions of a group behind one prefix, attention by
plain matrix products, the last layer only where an answer is read. The heads are linear and never leave the recipe:

- on the vision features: what stands at each place, the background, how far the place is from a clean rendering;
- on the source's tokens two layers before the end: what should stand at each place after the edit (the instruction
  comes first, so they can know);
- on the candidate's tokens there: what stands, what should stand, and whether each agrees with the other and with the
  source.

Loss = cross-entropy of the answer tokens against soft digits (two neighbouring digits weighted so that the expectation
is the label; the full vocabulary is in the softmax) + a decaying weight x the heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmreward.fit.judge_data import Frame, JudgeBatch
from mmreward.training import Loss

__all__ = ["JudgeTrainer", "soft_digits"]

_LOOK = (7, 9, 3)  # shapes, colours, sizes, each with "empty"
_GROUND = (4, 6)  # kinds and colours of backgrounds


def soft_digits(labels: Tensor, count: int) -> Tensor:
    """Labels [...] in [0, 1] as distributions [..., count] over equally spaced digits with that expectation."""
    place = labels.clamp(0, 1) * (count - 1)
    return (1 - (place[..., None] - torch.arange(count, device=labels.device)).abs()).clamp(min=0)


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
        parts = self._run(batch.text, batch.text_mask, batch.pixels, batch.asked)
        see, plan = parts[0].float(), parts[1].float()
        check, answers = (None if part is None else part.float() for part in parts[2:])
        dense = self._see_loss(see, batch) + self._plan_loss(plan, batch)
        log = {"dense": float(dense.detach())}
        if answers is None or check is None:
            return Loss(dense, log)
        checked = self._check_loss(check, batch)
        target = soft_digits(batch.labels, len(self.frame.labels))
        picked = answers.log_softmax(-1)[..., list(self.frame.labels)]
        told = -(target * picked).sum(-1).mean((0, 1))
        entropy = torch.special.entr(target).sum(-1).mean()
        weight = max(0.15, 1 - batch.step / max(self.dense_steps, 1))
        log |= {"check": float(checked.detach()), "answers": float(told.detach().mean() - entropy)}
        return Loss(told.sum() + weight * (dense + checked), log)

    @torch.no_grad()
    def scores(self, batch: JudgeBatch) -> Tensor:
        """Expected scores [G, K, 3] in [0, 1]."""
        answers = self._forward(batch.text, batch.text_mask, batch.pixels, True)[3]
        assert answers is not None  # the questions were asked
        picked = answers.float()[..., list(self.frame.labels)].softmax(-1)
        return picked @ torch.linspace(0, 1, len(self.frame.labels))

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
        self, text: Tensor, text_mask: Tensor, pixels: Tensor, asked: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Logits of the heads and of the answers; the latter two only where questions are put."""
        features = self._look(pixels)  # [G, 1 + K, 9, D]
        model = self.judge.model.language_model
        embed = model.embed_tokens.weight
        groups, count = pixels.shape[0], pixels.shape[1] - 1
        start, end = self.frame.image

        def fixed(ids: tuple[int, ...], *shape: int) -> Tensor:
            return embed[list(ids)].expand(*shape, -1, -1)

        shared = torch.cat(
            [F.embedding(text, embed), fixed((start,), groups), features[:, 0], fixed((end,), groups)],
            1,
        ).float()
        length = shared.shape[1]
        known = F.pad(text_mask, (0, 11), value=True)  # [G, P]
        image_at = length - 10
        own = torch.ones(length, length, dtype=torch.bool).tril()
        # A padded row attends to itself, so that no softmax is empty.
        shared_mask = (known[:, None] & own | torch.eye(length, dtype=torch.bool))[:, None]
        shared_turn = self._turn(_positions(length, image_at))
        see = self.see_head(features)
        check_at = len(model.layers) - 2

        if not asked:
            for layer in model.layers[:check_at]:
                shared = _block(layer, shared, shared_turn, shared_mask)
            return see, self.plan_head(_norm(shared[:, image_at : image_at + 9], 1e-6)), None, None

        asks = [token for question in self.frame.questions for token in question]
        own_text = fixed((start, end, *asks), groups, count)
        rest = torch.cat([own_text[:, :, :1], features[:, 1:], own_text[:, :, 1:]], 2).float()
        rest_turn = self._turn(self._branch_positions(length))
        rest_mask = torch.cat(
            [
                known[:, None, None, None].expand(-1, count, 1, rest.shape[2], -1),
                self._tree().expand(groups, count, 1, -1, -1),
            ],
            -1,
        )
        answer_at = self._answer_at()
        plan, check = torch.empty(0), None  # set below, before the last layers
        for number, layer in enumerate(model.layers):
            if number == check_at:
                plan = self.plan_head(_norm(shared[:, image_at : image_at + 9], 1e-6))
                check = self.check_head(_norm(rest[:, :, 1:10], 1e-6))
            last = number == len(model.layers) - 1
            keys, values = _keys(layer, shared, shared_turn)
            if not last:
                shared_next = _block(layer, shared, shared_turn, shared_mask, (keys, values))
            own_keys, own_values = _keys(layer, rest, rest_turn)
            wide = (
                torch.cat([keys[:, None].expand(-1, count, -1, -1, -1), own_keys], -2),
                torch.cat([values[:, None].expand(-1, count, -1, -1, -1), own_values], -2),
            )
            if last:
                turn = (rest_turn[0][answer_at], rest_turn[1][answer_at])
                rest = _block(layer, rest[:, :, answer_at], turn, rest_mask[..., answer_at, :], wide)
            else:
                rest = _block(layer, rest, rest_turn, rest_mask, wide)
                shared = shared_next
        answers = F.linear(_norm(rest, model.norm.variance_epsilon) * model.norm.weight, embed)  # [G, K, Q, V]
        return see, plan, check, answers

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
            y = _norm(x, 1e-6) * block.norm1.weight
            heads = attention.qkv(y).unflatten(-1, (3, attention.num_heads, -1))
            query, key, value = (part.transpose(-2, -3) for part in heads.unbind(-3))
            found = _attend(_rotate(query, turn), _rotate(key, turn), value, None)
            x = x + attention.proj(found.transpose(-2, -3).flatten(-2))
            x = x + block.mlp(_norm(x, 1e-6) * block.norm2.weight)
        merger = tower.merger
        return merger.mlp((_norm(x, 1e-6) * merger.ln_q.weight).unflatten(-2, (9, 4)).flatten(-2))

    def _turn(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [N, 32] of M-RoPE for positions [3, N]."""
        rotary = self.judge.model.language_model.rotary_emb
        angles = positions[..., None] * rotary.inv_freq
        sections = angles.split(rotary.mrope_section, -1)
        mixed = torch.cat([part[i % 3] for i, part in enumerate(sections)], -1).repeat(1, 2)
        return mixed.cos(), mixed.sin()

    def _branch_positions(self, length: int) -> Tensor:
        after = length - 6  # the source image counts 3 positions for its 9 tokens
        parts = [_positions(11, 1) + after]
        parts += [torch.arange(len(q)).expand(3, -1) + after + 5 for q in self.frame.questions]
        return torch.cat(parts, 1)

    def _tree(self) -> Tensor:
        """Which of a candidate's own tokens sees which: bool [S, S]."""
        owner = torch.tensor([0] * 11 + [i + 1 for i, q in enumerate(self.frame.questions) for _ in q])
        order = torch.ones(len(owner), len(owner), dtype=torch.bool).tril()
        return order & ((owner[:, None] == owner) | (owner == 0))

    def _answer_at(self) -> Tensor:
        return torch.tensor([len(q) for q in self.frame.questions]).cumsum(0) + 10


def _positions(length: int, image_at: int) -> Tensor:
    """M-RoPE positions [3, length] of a text with one 3x3 image at `image_at`."""
    before = torch.arange(image_at).expand(3, -1)
    place = torch.arange(9)
    image = torch.stack([torch.zeros(9, dtype=torch.long), place // 3, place % 3]) + image_at
    after = torch.arange(length - image_at - 9).expand(3, -1) + image_at + 3
    return torch.cat([before, image, after], 1)


def _norm(x: Tensor, epsilon: float) -> Tensor:
    return x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + epsilon)


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, -1)
    return (x * turn[0] + torch.cat([-second, first], -1) * turn[1]).to(x.dtype)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    repeat = query.shape[-3] // key.shape[-3]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, -3), value.repeat_interleave(repeat, -3)
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        weights = weights.masked_fill(~mask, -1e4)
    return weights.float().softmax(-1).to(value.dtype) @ value


def _keys(layer: Any, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    attention = layer.self_attn
    y = _norm(x, layer.input_layernorm.variance_epsilon) * layer.input_layernorm.weight
    key, value = (
        part(y).unflatten(-1, (-1, attention.head_dim)).transpose(-2, -3)
        for part in (attention.k_proj, attention.v_proj)
    )
    return _rotate(key, turn), value


def _block(
    layer: Any, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, seen: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """One decoder layer; `seen` are the keys and values to attend to, those of x where None."""
    attention = layer.self_attn
    key, value = seen or _keys(layer, x, turn)
    y = _norm(x, layer.input_layernorm.variance_epsilon) * layer.input_layernorm.weight
    query = _rotate(attention.q_proj(y).unflatten(-1, (-1, attention.head_dim)).transpose(-2, -3), turn)
    x = x + attention.o_proj(_attend(query, key, value, mask).transpose(-2, -3).flatten(-2))
    y = _norm(x, layer.post_attention_layernorm.variance_epsilon) * layer.post_attention_layernorm.weight
    return x + layer.mlp(y)


def _entropy(logits: Tensor, sizes: tuple[int, ...], labels: Tensor) -> Tensor:
    """Sum of the mean cross-entropies of several choices laid side by side in the last axis."""
    parts = zip(logits.split(sizes, -1), labels.unbind(-1), strict=True)
    return torch.stack([F.cross_entropy(part.flatten(0, -2), label.flatten()) for part, label in parts]).sum()
