"""HPSv3: how much people would prefer the edited image as a picture of a text, with the model's own uncertainty.

    hpsv3:MizzenAI/HPSv3
    hpsv3:HPSv3.safetensors?base=FOLDER      weights and the Qwen2-VL-7B-Instruct that they were trained from

Y. Ma et al., "HPSv3: Towards Wide-Spectrum Human Preference Score", ICCV 2025; weights MizzenAI/HPSv3. One head on
Qwen2-VL gives mu and log sigma for one image of 448 x 448 pixels (by area) and a text: the edit's target caption, else
its instruction, which provenance says. It never sees the source. Its words are read from the package `hpsv3` on PyPI
(`pip install --no-deps hpsv3`; the package is not run) or from a file that you name (`prompt`).

    overall = 1 / (1 + exp(-(mu - 8) / 2))

Its authors measured mean mu between -0.24 (Stable Diffusion 2) and 10.55 (Kolors), SDXL at 8.20.
"""

from __future__ import annotations

__all__ = ["FAMILY", "HEADS", "PLACES", "PUBLISHED", "SCALE", "Hpsv3Reward", "load"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmreward.edit import Edit
from mmreward.judge.checkpoints.images import FIXED_AREA, sized, sizes
from mmreward.judge.checkpoints.texts import Texts, package_folder, read_texts
from mmreward.judge.options import DTYPE_NAMES, take_choice, take_whole
from mmreward.judge.prompt import Piece
from mmreward.reward import unknown
from mmreward.rewards.base import Pointwise
from mmreward.rewards.preference import SCALE_OPTIONS, Scale, take_scale, text_of, without_text
from mmreward.score import Failure, Score, Spread

if TYPE_CHECKING:
    from mmreward.judge.checkpoints.heads import HeadModel, Reading

FAMILY = ("qwen2_vl",)
HEADS = ("rm_head",)
PLACES = ("dataset/data_collator_qwen.py:INSTRUCTION", "dataset/data_collator_qwen.py:prompt_with_special_token")
PUBLISHED = "cd023e6397a3bab9ea53935e9e361ac79e35265507a470eaeb39e2deb5fd9ec7"
"""Digest of the texts at `PLACES` in hpsv3 1.0.0."""

_BASE = "Qwen/Qwen2-VL-7B-Instruct"
SCALE = Scale(8.0, 2.0)
_OPTIONS = ("base", "batch", "device", "dtype", "prompt", "revision", "tokens", *SCALE_OPTIONS)


def load(model: str = "", **options: str) -> Hpsv3Reward:
    """`hpsv3:WEIGHTS`: a safetensors file, its folder or a hub id.

    Options: `base` (folder or hub id of the model it was trained from; default Qwen/Qwen2-VL-7B-Instruct), `prompt`
    (folder of the package's code, or a YAML file with INSTRUCTION and prompt_with_special_token), `centre` and `scale`
    of the map to [0, 1], `device`, `dtype`, `revision` of a hub id, `tokens` (how many go through the model at once,
    default 8192), `batch` (edits at a time, default 32).
    """
    if not model:
        raise ValueError("the reward 'hpsv3' needs weights, such as 'hpsv3:MizzenAI/HPSv3'")
    scale = take_scale(options, SCALE)
    batch, tokens = take_whole(options, "batch", 32), take_whole(options, "tokens", 8192)
    dtype = take_choice(options, "dtype", "", ("", *DTYPE_NAMES)) or None
    base, prompt = options.pop("base", _BASE), options.pop("prompt", None)
    device, revision = options.pop("device", None), options.pop("revision", None)
    for option in options:
        raise unknown("option of 'hpsv3'", option, _OPTIONS)
    texts = read_texts(prompt or package_folder("hpsv3", "HPSv3"), PLACES, PUBLISHED)
    from mmreward.judge.checkpoints.heads import HeadModel, check_words
    from mmreward.judge.checkpoints.weights import find_weights

    check_words(texts.values[:1], texts.values[1])
    weights = find_weights(model, revision)
    head = HeadModel.load(weights, base, HEADS, family=FAMILY, device=device, dtype=dtype, tokens=tokens)
    return Hpsv3Reward(head, texts, name=model, scale=scale, batch=batch)


@dataclass(frozen=True)
class _Row:
    pieces: tuple[Piece, ...]
    sizes: Mapping[str, Any]


class Hpsv3Reward(Pointwise):
    """`overall` is mu through a logistic map. `raw` has `mu` and `sigma`, `spread` is sigma's ("head").

    One dimension, `preference`: the picture and its agreement with the text in one number.
    """

    dims = ("preference",)
    needs = ("edited",)

    def __init__(self, model: HeadModel, texts: Texts, *, name: str, scale: Scale = SCALE, batch: int = 32) -> None:
        self.model, self.texts, self.scale, self.batch = model, texts, scale, batch
        self.name = f"hpsv3:{name}" if texts.published else f"own prompt on the weights of hpsv3:{name}"
        self._provenance = {
            "reward": self.name,
            **model.describe,
            "question": texts.about,
            "given_text": "special tokens split",
            "pixels": FIXED_AREA,
            **scale.about,
        }

    def applies(self, edit: Edit) -> Failure | None:
        """It applies where there is a text."""
        return without_text(edit)

    def about(self, edit: Edit) -> dict[str, Any]:
        return {"text": text_of(edit)[1]}

    def prepare(self, edit: Edit) -> _Row:
        from mmreward.judge.checkpoints.heads import words

        template, ending = self.texts.values
        pieces = (sized(edit, "edited"), *words(template, ending, text_of(edit)[0]))
        return _Row(pieces, sizes(edit, "edited"))

    def measure(self, rows: Sequence[_Row]) -> list[Score | Failure]:
        readings = self.model.read(HEADS[0], [row.pieces for row in rows])
        return [self._score(reading, row) for reading, row in zip(readings, rows, strict=True)]

    def _score(self, reading: Reading, row: _Row) -> Score | Failure:
        if reading.status != "ok":
            return Failure(reading.status, str(reading.error))
        overall = self.scale(reading.mu)
        return Score(
            overall,
            {"preference": overall},
            spread=Spread("head", self.scale.spread(reading.mu, reading.sigma)),
            raw={"mu": reading.mu, "sigma": reading.sigma},
            provenance={"sizes": row.sizes},
        )
