"""A vision-language model with reward heads: (mu, log sigma) read from the hidden state at the token <|Reward|>.

The lineage of HPSv3 and EditReward: a Qwen2-VL or Qwen2.5-VL model, one token more in the vocabulary, and heads
Linear(H, 1024) ReLU Dropout Linear(1024, 16) ReLU Linear(16, 2) in float32. What follows the token in the prompt cannot
be seen from it.

**Positions.** The published code embeds the images itself and calls the language model without their grids, so that
each token, image tokens too, has the next position: 0, 1, 2, ... in all three parts of M-RoPE. The weights were trained
that way. Loaders that let the model find its usual positions (rows and columns in an image) give other numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmreward.hub import hub_folder
from mmreward.judge.backends.words import Words
from mmreward.judge.checkpoints.images import FACTOR
from mmreward.judge.checkpoints.weights import Weights, complain
from mmreward.judge.prompt import Fixed, Given, Piece
from mmreward.quiet import quiet_loading
from mmreward.score import Status

__all__ = ["BASE_FILES", "DTYPES", "REWARD", "HeadModel", "Reading", "check_words", "words"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

REWARD = "<|Reward|>"

BASE_FILES = ("*.json", "*.txt", "*.jinja")
"""What is downloaded of a base model: no weights."""

_CLASSES = {"qwen2_vl": "Qwen2VLModel", "qwen2_5_vl": "Qwen2_5_VLModel"}


@dataclass(frozen=True)
class Reading:
    """What a head says of one row: z ~ N(mu, sigma^2); or a status other than "ok" with the reason."""

    mu: float = math.nan
    log_sigma: float = math.nan
    status: Status = "ok"
    error: str | None = None

    @property
    def sigma(self) -> float:
        return math.exp(min(self.log_sigma, 700.0))  # beyond that a float overflows


def words(template: str, ending: str, text: str) -> tuple[Piece, ...]:
    """The template with `text` in its place {text_prompt}, and the ending with the token at which is read.

    Template and text are tokenised in one run, as in training: a token may reach across the seam. Special tokens are
    split in it, whoever wrote them.
    """
    before, _, after = ending.partition(REWARD)
    return Given(template.replace("{text_prompt}", text) + before), Fixed(REWARD), Given(after)


def check_words(templates: Sequence[str], ending: str) -> None:
    """Raises ValueError where `words` could not be made of these."""
    if ending.count(REWARD) != 1:
        raise ValueError(f"prompt_with_special_token must hold {REWARD} once, where the score is read")
    for template in templates:
        if "{text_prompt}" not in template:
            raise ValueError("the prompt must hold {text_prompt}, where the text goes")


@dataclass(frozen=True)
class _Row:
    """Token ids, the images behind the place holders in order with their digests, the index of the reward token."""

    ids: tuple[int, ...]
    images: tuple[tuple[bytes, Image.Image], ...]
    read: int


class HeadModel:
    """`read(head, rows)` gives a `Reading` a row. `tokens`: about how many go through the model at once."""

    def __init__(self, model: Any, processor: Any, heads: nn.ModuleDict, tokens: int = 8192) -> None:
        self.model, self.heads, self.tokens = model.eval(), heads.eval(), tokens
        self.words, self.image_processor = Words(processor.tokenizer), processor.image_processor
        self.head, self.tail = _frame(processor)
        if (side := self.image_processor.patch_size * self.image_processor.merge_size) != FACTOR:
            raise ValueError(f"an image token of the base model is {side} pixels wide, expected {FACTOR}")
        self.longest = model.config.get_text_config().max_position_embeddings
        self.describe: dict[str, Any] = {
            "backend": "transformers",
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "positions": "sequential",
        }

    @classmethod
    def load(
        cls,
        weights: Weights,
        base: str,
        heads: Sequence[str],
        *,
        family: Sequence[str],
        device: str | None = None,
        dtype: str | None = None,
        tokens: int = 8192,
    ) -> HeadModel:
        """A checkpoint's weights in the architecture of its base model, all of them and nothing else.

        `base`: folder or hub id of the model that it was trained from (its configuration, processor and tokenizer; no
        weights are read from there). `heads`: their prefixes in the checkpoint, such as "rm_heads.head_0".
        """
        config, processor = _open_base(base, family)
        processor.tokenizer.add_special_tokens({"additional_special_tokens": [REWARD]})
        place = _place(device)
        kind = DTYPES[dtype] if dtype else torch.float32 if place.type == "cpu" else torch.bfloat16
        model = _fill_model(config, weights, len(processor.tokenizer), kind)
        built = nn.ModuleDict({name.replace(".", "_"): _head(config.get_text_config().hidden_size) for name in heads})
        _fill_heads(built, heads, weights.heads(), weights.name)
        loaded = cls(model.to(place), processor, built.to(place), tokens)
        loaded.describe |= {"revision": weights.fingerprint(), "base": Path(base).name if _is_folder(base) else base}
        return loaded

    @torch.inference_mode()
    def read(
        self, head: str, rows: Sequence[Sequence[Piece]], pictures: dict[bytes, Tensor] | None = None
    ) -> list[Reading]:
        """What the head of this name says of rows of pieces, each with one Fixed(REWARD) and images already sized.

        `pictures` keeps the features of images by their content, from one call to the next.
        """
        pictures = {} if pictures is None else pictures
        built = [self._row(row) for row in rows]
        found: dict[int, Reading] = {i: row for i, row in enumerate(built) if isinstance(row, Reading)}
        good = {i: row for i, row in enumerate(built) if isinstance(row, _Row)}
        self._look({name: image for row in good.values() for name, image in row.images}, pictures)
        order = sorted(good, key=lambda i: (-len(good[i].ids), i))
        while order:
            size = max(1, self.tokens // len(good[order[0]].ids))
            batch, order = order[:size], order[size:]
            found |= zip(batch, self._run(head, [good[i] for i in batch], pictures), strict=True)
        return [found[i] for i in range(len(rows))]

    def _row(self, pieces: Sequence[Piece]) -> _Row | Reading:
        config, ids, read = self.model.config, list(self._ids(Fixed(self.head))), -1
        images: list[tuple[bytes, Image.Image]] = []
        for piece in pieces:
            if isinstance(piece, Image.Image):
                images.append((_digest(piece), piece))
                count = (piece.width // FACTOR) * (piece.height // FACTOR)
                ids += [config.vision_start_token_id, *[config.image_token_id] * count, config.vision_end_token_id]
            else:
                ids += self._ids(piece)
                if piece == Fixed(REWARD):
                    read = len(ids) - 1
        ids += self._ids(Fixed(self.tail))
        if len(ids) > self.longest:
            error = f"a text of {len(ids)} tokens is longer than the model takes ({self.longest})"
            return Reading(status="not_applicable", error=error)
        return _Row(tuple(ids), tuple(images), read)

    def _ids(self, piece: Fixed | Given) -> list[int]:
        return self.words.given(piece.text) if isinstance(piece, Given) else self.words.fixed(piece.text)

    def _look(self, images: Mapping[bytes, Image.Image], pictures: dict[bytes, Tensor]) -> None:
        """Features [N, H] of images that are not known yet."""
        new = [name for name in images if name not in pictures]
        for start in range(0, len(new), 64):
            part = new[start : start + 64]
            inputs = self.image_processor(images=[images[name] for name in part], do_resize=False, return_tensors="pt")
            inputs = inputs.to(self.model.device)
            features = self.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
            pictures |= zip(part, features, strict=True)

    def _run(self, head: str, rows: Sequence[_Row], pictures: Mapping[bytes, Tensor]) -> list[Reading]:
        device, longest = self.model.device, max(len(row.ids) for row in rows)
        ids = torch.zeros((len(rows), longest), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids, device=device)
            mask[i, : len(row.ids)] = 1
        embeds = self.model.get_input_embeddings()(ids)
        features = torch.cat([pictures[name] for row in rows for name, _ in row.images])
        embeds[(ids == self.model.config.image_token_id) & (mask == 1)] = features.to(embeds.dtype)
        positions = torch.arange(longest, device=device).expand(3, len(rows), longest)
        hidden = self.model.language_model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        at = torch.tensor([row.read for row in rows], device=device)
        values = self.heads[head.replace(".", "_")](hidden[torch.arange(len(rows), device=device), at].float())
        return [_reading(mu, log_sigma) for mu, log_sigma in values.double().tolist()]


def _digest(image: Image.Image) -> bytes:
    return hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=16).digest()


def _reading(mu: float, log_sigma: float) -> Reading:
    if math.isfinite(mu) and math.isfinite(log_sigma):
        return Reading(mu, log_sigma)
    return Reading(status="parse_error", error="the model's output is not finite (NaN or infinity)")


def _head(hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(hidden, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    )


def _fill_heads(built: nn.ModuleDict, names: Sequence[str], found: Mapping[str, Tensor], where: str) -> None:
    expected = {
        f"{name}.{key}": tensor for name in names for key, tensor in built[name.replace(".", "_")].state_dict().items()
    }
    reshaped = [name for name, tensor in expected.items() if name in found and found[name].shape != tensor.shape]
    complain(where, expected.keys() - found.keys(), found.keys() - expected.keys(), reshaped)
    for name in names:
        own = {key.removeprefix(f"{name}."): tensor for key, tensor in found.items() if key.startswith(f"{name}.")}
        built[name.replace(".", "_")].load_state_dict(own)


def _fill_model(config: Any, weights: Weights, vocabulary: int, dtype: torch.dtype) -> Any:
    import transformers

    tensors = weights.backbone()
    embedding = tensors.get("language_model.embed_tokens.weight")
    if embedding is not None and len(embedding) != vocabulary:
        raise ValueError(
            f"the weights of {weights.name!r} know {len(embedding)} tokens, the tokenizer of its base with {REWARD} "
            f"{vocabulary}; is ?base the right model?"
        )
    config.get_text_config().vocab_size = vocabulary
    with quiet_loading():
        model, report = getattr(transformers, _CLASSES[config.model_type]).from_pretrained(
            None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    complain(weights.name, report["missing_keys"], report["unexpected_keys"], report["mismatched_keys"])
    return model


def _open_base(base: str, family: Sequence[str]) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoProcessor

    common: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    folder = Path(base).expanduser() if _is_folder(base) else hub_folder(base, patterns=BASE_FILES)
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(folder, **common)
            processor = AutoProcessor.from_pretrained(folder, **common)
    except Exception as error:  # whatever a broken or foreign folder makes transformers raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the base model {base!r} cannot be opened: {first}") from error
    if config.model_type not in family:
        raise ValueError(
            f"the base model {base!r} is a {config.model_type}, expected {' or '.join(family)}: weights with these "
            "heads are published for no other family, and how they would be read there is not known"
        )
    return config, processor


def _is_folder(name: str) -> bool:
    return Path(name).expanduser().is_dir()


def _frame(processor: Any) -> tuple[str, str]:
    """What the chat template writes before and after a user's content."""
    marker = "content"
    while marker in str(processor.chat_template):
        marker += "!"
    message = [{"role": "user", "content": [{"type": "text", "text": marker}]}]
    head, found, tail = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False).partition(
        marker
    )
    if not found:
        raise ValueError("the chat template of the base model drops the user's text")
    return head, tail


def _place(asked: str | None) -> torch.device:
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=asked).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {asked!r} cannot be used: {str(error).splitlines()[0]}") from None
