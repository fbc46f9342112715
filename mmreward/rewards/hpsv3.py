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

from collections.abc import Sequence
from typing import Any

from mmreward.edit import Edit, ImageError
from mmreward.judge.checkpoints.heads import DTYPES, HeadModel, Reading, check_words, words
from mmreward.judge.checkpoints.images import FIXED_AREA, sized, sizes
from mmreward.judge.checkpoints.texts import Texts, package_folder, read_texts
from mmreward.judge.checkpoints.weights import find_weights
from mmreward.judge.options import take_choice, take_whole
from mmreward.judge.prompt import Piece
from mmreward.reward import Reward, unknown
from mmreward.rewards.preference import SCALE_OPTIONS, Scale, take_scale, text_of
from mmreward.score import Score, Spread, Status

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
    dtype = take_choice(options, "dtype", "", ("", *DTYPES)) or None
    base, prompt = options.pop("base", _BASE), options.pop("prompt", None)
    device, revision = options.pop("device", None), options.pop("revision", None)
    for option in options:
        raise unknown("option of 'hpsv3'", option, _OPTIONS)
    texts = read_texts(prompt or package_folder("hpsv3", "HPSv3"), PLACES, PUBLISHED)
    check_words(texts.values[:1], texts.values[1])
    weights = find_weights(model, revision)
    head = HeadModel.load(weights, base, HEADS, family=FAMILY, device=device, dtype=dtype, tokens=tokens)
    return Hpsv3Reward(head, texts, name=model, scale=scale, batch=batch)


class Hpsv3Reward(Reward):
    """`overall` is mu through a logistic map. `raw` has `mu` and `sigma`, `spread` is sigma's ("head").

    One dimension, `preference`: the picture and its agreement with the text in one number.
    """

    dims = ("preference",)

    def __init__(self, model: HeadModel, texts: Texts, *, name: str, scale: Scale = SCALE, batch: int = 32) -> None:
        self.model, self.texts, self.scale, self.batch = model, texts, scale, batch
        self.name = f"hpsv3:{name}" if texts.published else f"own prompt on the weights of hpsv3:{name}"
        self._provenance: dict[str, Any] = {
            "reward": self.name,
            **model.describe,
            "question": texts.about,
            "given_text": "special tokens split",
            "pixels": FIXED_AREA,
            **scale.about,
        }

    def score(self, edits: Sequence[Edit]) -> list[Score]:
        return [one for start in range(0, len(edits), self.batch) for one in self._chunk(edits[start:][: self.batch])]

    def _chunk(self, edits: Sequence[Edit]) -> list[Score]:
        scores: dict[int, Score] = {}
        rows: dict[int, tuple[Piece, ...]] = {}
        for index, edit in enumerate(edits):
            try:
                rows[index] = self._row(edit)
            except ImageError as error:
                scores[index] = self._failed(error.status, error.message, edit)
        for index, reading in zip(rows, self.model.read(HEADS[0], list(rows.values())), strict=True):
            scores[index] = self._score(reading, edits[index])
        return [scores[index] for index in range(len(edits))]

    def _row(self, edit: Edit) -> tuple[Piece, ...]:
        text, _ = text_of(edit)
        if not text:
            raise ImageError("there is neither a target caption nor an instruction", "not_applicable")
        template, ending = self.texts.values
        return (sized(edit, "edited"), *words(template, ending, text))

    def _score(self, reading: Reading, edit: Edit) -> Score:
        if reading.status != "ok":
            return self._failed(reading.status, str(reading.error), edit)
        overall = self.scale(reading.mu)
        return Score(
            overall,
            {"preference": overall},
            spread=Spread("head", self.scale.spread(reading.mu, reading.sigma)),
            raw={"mu": reading.mu, "sigma": reading.sigma},
            provenance=self._provenance | {"text": text_of(edit)[1], "sizes": sizes(edit, "edited")},
        )

    def _failed(self, status: Status, error: str, edit: Edit) -> Score:
        return Score.failed(status, error, provenance=self._provenance | {"text": text_of(edit)[1]})
