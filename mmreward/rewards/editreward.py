"""EditReward: two learned heads, one for following the instruction and one for visual quality, with uncertainties.

    editreward:TIGER-Lab/EditReward-Qwen2.5-VL-7B?prompt=EditReward/EditReward/dataset
    editreward:FOLDER?base=FOLDER2&prompt=...       weights and the model that they were trained from

K. Wu et al., "EditReward: A Human-Aligned Reward Model for Instruction-Guided Image Editing", 2025. The model reads
source, edited image (448 x 448 pixels each, by area) and one of two texts with the instruction, and each text has its
head: (mu, log sigma) at the token <|Reward|>. Over-editing counts in the first head's text. As published, the two are
pooled by the mean of both numbers (so that sigma is the geometric mean); `pool` is `mean`, `min` or `sum` (mu added,
variances added).

    overall = 1 / (1 + exp(-mu)),  mu pooled: the probability of being preferred to an edit with mu = 0

Its second number is no score but log sigma: here it is `spread`. Its words are in two files of its repository
(github.com/TIGER-AI-Lab/EditReward, folder EditReward/dataset: prompts.py and data_collator_qwen_edit.py); name that
folder. They are read and never run.
"""

from __future__ import annotations

__all__ = ["BASES", "FAMILY", "HEADS", "PLACES", "POOLS", "PUBLISHED", "SCALE", "EditRewardReward", "load"]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmreward.edit import Edit
from mmreward.judge.checkpoints.images import FIXED_AREA, sized, sizes
from mmreward.judge.checkpoints.texts import Texts, read_texts
from mmreward.judge.options import DTYPE_NAMES, take_choice, take_whole
from mmreward.reward import unknown
from mmreward.rewards.base import Pointwise
from mmreward.rewards.preference import SCALE_OPTIONS, Scale, take_scale
from mmreward.score import Failure, Score, Spread

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from mmreward.judge.checkpoints.heads import HeadModel, Reading

FAMILY = ("qwen2_5_vl",)
HEADS = {"instruction_following": "rm_heads.head_0", "quality": "rm_heads.head_1"}
BASES = {
    "TIGER-Lab/EditReward-Qwen2.5-VL-7B": "Qwen/Qwen2.5-VL-7B-Instruct",
    "TIGER-Lab/EditReward-MiMo-VL-7B-SFT-2508": "XiaomiMiMo/MiMo-VL-7B-SFT-2508",
}
"""Published weights, and the model that each was trained from."""

PLACES = (
    "prompts.py:INSTRUCTION_EDIT_FOLLOWING",
    "prompts.py:INSTRUCTION_EDIT_QUALITY",
    "data_collator_qwen_edit.py:prompt_with_special_token",
)
PUBLISHED = "ec7f2a94d7fcdb646fe7f62b77e2f8193dcc78db5ea3d74a59f88b4606b9c189"
"""Digest of the texts at `PLACES` in the repository at edb027e."""

SCALE = Scale(0.0, 1.0)
_OPTIONS = ("base", "batch", "device", "dtype", "pool", "prompt", "revision", "tokens", *SCALE_OPTIONS)


def _mean(readings: Sequence[Reading]) -> tuple[float, float]:
    count = len(readings)
    return sum(one.mu for one in readings) / count, sum(one.log_sigma for one in readings) / count


def _min(readings: Sequence[Reading]) -> tuple[float, float]:
    return min(one.mu for one in readings), min(one.log_sigma for one in readings)


def _sum(readings: Sequence[Reading]) -> tuple[float, float]:
    return sum(one.mu for one in readings), math.log(math.hypot(*(one.sigma for one in readings)))


POOLS: dict[str, Callable[[Sequence[Reading]], tuple[float, float]]] = {"mean": _mean, "min": _min, "sum": _sum}
"""Readings of the heads to (mu, log sigma)."""


def load(model: str = "", **options: str) -> EditRewardReward:
    """`editreward:WEIGHTS`: a folder, a safetensors file or a hub id.

    Options: `prompt` (folder with the published files, or a YAML file with texts of these names), `base` (folder or hub
    id of the model it was trained from; known for the published ids), `pool` (mean, min or sum), `centre` and `scale`
    of the map to [0, 1] (default 0 and 1), `device`, `dtype`, `revision` of a hub id, `tokens` (how many go through the
    model at once, default 8192), `batch` (edits at a time, default 32).
    """
    if not model:
        raise ValueError(
            "the reward 'editreward' needs weights, such as 'editreward:TIGER-Lab/EditReward-Qwen2.5-VL-7B'"
        )
    scale = take_scale(options, SCALE)
    batch, tokens = take_whole(options, "batch", 32), take_whole(options, "tokens", 8192)
    dtype = take_choice(options, "dtype", "", ("", *DTYPE_NAMES)) or None
    pool = take_choice(options, "pool", "mean", POOLS)
    base, prompt = options.pop("base", BASES.get(model, "")), options.pop("prompt", "")
    device, revision = options.pop("device", None), options.pop("revision", None)
    for option in options:
        raise unknown("option of 'editreward'", option, _OPTIONS)
    if not base:
        raise ValueError("editreward: weights of your own need ?base=, the model that they were trained from")
    if not prompt:
        raise ValueError(
            "editreward: its words are not in a package. Get the repository github.com/TIGER-AI-Lab/EditReward and add "
            "?prompt=EditReward/EditReward/dataset (two files are read there, nothing is run)"
        )
    texts = read_texts(prompt, PLACES, PUBLISHED)
    from mmreward.judge.checkpoints.heads import HeadModel, check_words
    from mmreward.judge.checkpoints.weights import find_weights

    check_words(texts.values[:2], texts.values[2])
    head = HeadModel.load(
        find_weights(model, revision),
        base,
        list(HEADS.values()),
        family=FAMILY,
        device=device,
        dtype=dtype,
        tokens=tokens,
    )
    return EditRewardReward(head, texts, name=model, pool=pool, scale=scale, batch=batch)


@dataclass(frozen=True)
class _Row:
    images: tuple[Image.Image, Image.Image]
    instruction: str
    sizes: Mapping[str, Any]


class EditRewardReward(Pointwise):
    """`overall` is the pooled mu through a logistic map, each dimension its own head's mu through the same map.

    `raw` has `mu` and `sigma`, pooled and for each dimension; `spread` is the pooled sigma's ("head").
    """

    dims = tuple(HEADS)

    def __init__(
        self,
        model: HeadModel,
        texts: Texts,
        *,
        name: str,
        pool: str = "mean",
        scale: Scale = SCALE,
        batch: int = 32,
    ) -> None:
        self.model, self.texts, self.scale, self.batch = model, texts, scale, batch
        self.pool = POOLS[pool]
        self.name = f"editreward:{name}" if texts.published else f"own prompt on the weights of editreward:{name}"
        self._provenance = {
            "reward": self.name,
            **model.describe,
            "question": texts.about,
            "given_text": "special tokens split",
            "pixels": FIXED_AREA,
            "pool": pool,
            **scale.about,
        }

    def prepare(self, edit: Edit) -> _Row:
        images = sized(edit, "source"), sized(edit, "edited")
        return _Row(images, edit.instruction, sizes(edit, "source", "edited"))

    def measure(self, rows: Sequence[_Row]) -> list[Score | Failure]:
        from mmreward.judge.checkpoints.heads import words

        pictures: dict[bytes, Tensor] = {}
        *templates, ending = self.texts.values
        by_head = []
        for head, template in zip(HEADS.values(), templates, strict=True):
            pieces = [(*row.images, *words(template, ending, row.instruction)) for row in rows]
            by_head.append(self.model.read(head, pieces, pictures))
        return [self._score(readings, row) for readings, row in zip(zip(*by_head, strict=True), rows, strict=True)]

    def _score(self, readings: Sequence[Reading], row: _Row) -> Score | Failure:
        from mmreward.judge.checkpoints.heads import Reading

        for dimension, one in zip(HEADS, readings, strict=True):
            if one.status != "ok":
                return Failure(one.status, f"{dimension}: {one.error}")
        pooled = Reading(*self.pool(readings))
        raw = {"mu": pooled.mu, "sigma": pooled.sigma}
        for dimension, one in zip(HEADS, readings, strict=True):
            raw |= {f"{dimension}_mu": one.mu, f"{dimension}_sigma": one.sigma}
        return Score(
            self.scale(pooled.mu),
            {dimension: self.scale(one.mu) for dimension, one in zip(HEADS, readings, strict=True)},
            spread=Spread("head", self.scale.spread(pooled.mu, pooled.sigma)),
            raw=raw,
            provenance={"sizes": row.sizes},
        )
