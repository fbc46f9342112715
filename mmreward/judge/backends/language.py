"""The parts of a vision-language model that read tokens: embeddings, language model, output layer."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmreward.judge.backends.vision import Picture

__all__ = ["Language"]


class Language:
    """The language model of a vision-language model, fed with ids, positions and pictures."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.embed, self.decoder = model.get_input_embeddings(), model.get_decoder()
        self.head = model.get_output_embeddings()
        self.token = int(model.config.image_token_id)
        self.config = model.config.get_text_config()
        self._cache_name = _cache_name(self.decoder)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def longest(self) -> int:
        """Most tokens of a text."""
        return int(getattr(self.config, "max_position_embeddings", None) or 1 << 62)

    @property
    def sees_all(self) -> bool:
        """Whether each token sees all earlier ones in all layers (no sliding window, no state that runs along)."""
        kinds = set(getattr(self.config, "layer_types", None) or ["full_attention"])
        return kinds == {"full_attention"} and (getattr(self.config, "sliding_window", None) or 1 << 62) >= self.longest

    @property
    def takes_masks(self) -> bool:
        """Whether its attention takes a mask of its own for each pair of tokens."""
        return self.config._attn_implementation == "sdpa"

    def hidden(
        self, ids: Tensor, positions: Tensor, mask: Tensor, pictures: Sequence[Picture], cache: Any = None
    ) -> Tensor:
        """Last hidden states [B, L, D] of ids [B, L] at positions [axes, B, L] (or [B, L]), under a mask [B, 1, L, L]
        or [B, cached + L]. `pictures` in the order of their tokens, row by row. A cache is appended to.
        """
        embeds = self.embed(ids)
        options: dict[str, Any] = {} if cache is None else {self._cache_name: cache}
        if pictures:
            visual = ids == self.token
            embeds[visual] = torch.cat([p.features for p in pictures if p.features is not None]).to(embeds.dtype)
            if pictures[0].deep:
                layers = range(len(pictures[0].deep))
                options["visual_pos_masks"] = visual
                options["deepstack_visual_embeds"] = [torch.cat([p.deep[i] for p in pictures]) for i in layers]
        return self.decoder(
            inputs_embeds=embeds,
            position_ids=positions if len(positions) > 1 else positions[0],
            attention_mask=mask,
            use_cache=cache is not None,
            **options,
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, vocabulary] of hidden states [N, D]."""
        return self.head(hidden)


def _cache_name(decoder: Any) -> str:
    """What the forward of this version of transformers calls the cache."""
    parameters = inspect.signature(decoder.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in parameters), "cache")
