"""Editors that were fine-tuned with scores and feedback as conditions, and are asked for the best scores.

    editor = load_editor("runs/conditioned/model")                         # best scores, no feedback, its own guidance
    editor = load_editor("runs/conditioned/model?asked=quality:0.5&score_guidance=1")      # the other scores at best

What the editor is asked for enters by a `Conditioner` and is then a condition like any other, so this form adds
nothing to the network itself. Guidance goes from low towards high scores, at each step:

    out = low + score_guidance (asked - low)

with one prediction of the network for each; at 1 it is the asked one alone. A folder holds the whole pipeline, which
plain diffusers loads too (as an editor that is told no scores), and beside it `conditioned.safetensors`; the names of
the scores and what is asked for are in its card.
"""

__all__ = ["WEIGHTS", "Conditioned", "conditioned", "conditioned_form"]

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from editing.editors.conditioned_scores import Additions, Conditioner
from editing.editors.editor import Condition, Prediction
from editing.editors.instruct_pix2pix import InstructPix2PixEditor
from editing.editors.kontext import KontextEditor
from editing.editors.pipeline import PipelineEditor
from mmreward.reward import unknown
from mmreward.training import check_weights

WEIGHTS = "conditioned.safetensors"
"""The file that makes a pipeline's folder a conditioned editor."""
Asked = float | Mapping[str, float]


class Conditioned(PipelineEditor):
    """What the conditioned form adds to an adapter.

    Args:
        scores: names of the scores that it understands.
        levels: see `Conditioner`.
        asked: scores to ask for; one number for all, or by name (1 where left out).
        low: scores that guidance leads away from; likewise (0 where left out).
        score_guidance: 1: no guidance, one pass instead of two.
        others: see the adapter.
    """

    start: ClassVar[type[PipelineEditor]]
    """The adapter without conditions."""
    conditioner: Conditioner

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        *,
        scores: Sequence[str],
        levels: int = 6,
        asked: Asked = 1.0,
        low: Asked = 0.0,
        score_guidance: float = 1.5,
        **others: Any,
    ) -> None:
        super().__init__(pipeline, **others)
        if not math.isfinite(score_guidance):
            raise ValueError(f"score_guidance should be a number, 1 for none; got {score_guidance}")
        self.conditioner = Conditioner(scores, levels, *self._widths())
        self.asked, self.low = self._wanted(asked, 1.0), self._wanted(low, 0.0)
        self.score_guidance = score_guidance

    @abstractmethod
    def _widths(self) -> tuple[int, int, int]:
        """Channels of the source's latents, width of the text, and of the pooled text (0: none)."""

    @abstractmethod
    def _spread(self, shift: Tensor) -> Tensor:
        """A shift [B, channels] in the form of the source's latents."""

    def _settings(self) -> dict[str, Any]:
        own = {"scores": list(self.conditioner.scores), "levels": self.conditioner.levels}
        wanted = {"asked": self.asked, "low": self.low, "score_guidance": self.score_guidance}
        return {**self.start._settings(self), **own, **wanted}

    def _wanted(self, values: Asked, default: float) -> dict[str, float]:
        names = self.conditioner.scores
        given = dict(values) if isinstance(values, Mapping) else dict.fromkeys(names, values)
        for name, value in given.items():
            if name not in names:
                raise unknown("score", name, names)
            if not 0 <= value <= 1:
                raise ValueError(f"the score {name} that is asked for should be in [0, 1], got {value}")
        return {name: float(given.get(name, default)) for name in names}

    def given(self, condition: Condition, scores: Tensor, feedback: Tensor | None = None) -> Condition:
        """`condition` with scores [B, D] (NaN: not said) and feedback states [B, L, width] (zero: none), with gradient.

        The empty instruction of a guided condition gets the scores too, so that guidance by the instruction is about
        the instruction alone.
        """
        more: Additions = self.conditioner(scores)
        tensors = dict(condition.tensors)
        tensors["source"] = tensors["source"] + self._spread(more.shift).to(tensors["source"].dtype)
        tensors["text"] = self.conditioner.added(tensors["text"], more.tokens, feedback)
        if "no_text" in tensors:
            tensors["no_text"] = self.conditioner.added(tensors["no_text"], more.tokens)
        if more.pooled is not None:
            for name in ("pooled", "no_pooled"):
                if name in tensors:
                    tensors[name] = tensors[name] + more.pooled.to(tensors[name].dtype)
        return replace(condition, tensors=tensors)

    def predict(self, x: Tensor, t: float | Tensor, condition: Condition) -> Prediction:
        asked = self.predict_given(x, t, self.given(condition, self._rows(self.asked, x)))
        if self.score_guidance == 1:
            return asked
        low = self.predict_given(x, t, self.given(condition, self._rows(self.low, x)))
        return Prediction(*(a + self.score_guidance * (b - a) for a, b in zip(low, asked, strict=True)))

    def predict_given(self, x: Tensor, t: float | Tensor, condition: Condition) -> Prediction:
        """The prediction for a condition that `given` made."""
        return self.start.predict(self, x, t, condition)

    def _rows(self, values: Mapping[str, float], x: Tensor) -> Tensor:
        return torch.tensor([list(values.values())], device=x.device).expand(len(x), -1)

    def to(self, device: str | torch.device) -> Self:
        self.conditioner.to(device)
        return super().to(device)

    def _write(self, folder: Path, dtype: torch.dtype | None) -> None:
        super()._write(folder, dtype)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.conditioner.state_dict().items()}
        save_file(state, folder / WEIGHTS)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | torch.device | None = "cpu",
        dtype: torch.dtype = torch.float32,
        lora: str | Path | None = None,
        **options: Any,
    ) -> Self:
        editor = super().load(folder, device, dtype, lora, **options)
        file = Path(folder) / WEIGHTS
        state = load_file(file)
        check_weights(editor.conditioner.state_dict(), state, file)
        editor.conditioner.load_state_dict(state)
        editor.conditioner.requires_grad_(False)
        return editor


class ConditionedKontext(Conditioned, KontextEditor):
    """FLUX Kontext: the source is a sequence of tokens."""

    start = KontextEditor

    def _widths(self) -> tuple[int, int, int]:
        config = self.pipeline.transformer.config
        return config.in_channels, config.joint_attention_dim, config.pooled_projection_dim

    def _spread(self, shift: Tensor) -> Tensor:
        return shift[:, None, :]


class ConditionedInstructPix2Pix(Conditioned, InstructPix2PixEditor):
    """InstructPix2Pix: the source is a grid. Where image guidance leaves the source out, it leaves the shift out."""

    start = InstructPix2PixEditor

    def _widths(self) -> tuple[int, int, int]:
        pooled = self.pipeline.text_encoder_2.config.projection_dim if self.is_xl else 0
        return self.pipeline.vae.config.latent_channels, self.pipeline.unet.config.cross_attention_dim, pooled

    def _spread(self, shift: Tensor) -> Tensor:
        return shift[:, :, None, None]


_FORMS: tuple[type[Conditioned], ...] = (ConditionedKontext, ConditionedInstructPix2Pix)


def conditioned_form(adapter: type[PipelineEditor]) -> type[Conditioned]:
    """The conditioned form of an adapter."""
    for form in _FORMS:
        if form.start is adapter:
            return form
    there_is = ", ".join(form.start.__name__ for form in _FORMS)
    raise ValueError(f"{adapter.__name__} has no form that is conditioned on scores; there is one for: {there_is}")


def conditioned(editor: PipelineEditor, **options: Any) -> Conditioned:
    """`editor`, whose parts are used as they are, with new conditions: exactly itself until it is trained."""
    kept: dict[str, Any] = {
        "max_area": editor.max_area,
        "steps": editor.default_steps,
        "park": editor.park,
        "domain": editor.domain,
    }
    form = conditioned_form(type(editor))
    name = f"{editor.name}-conditioned"
    return form(editor.pipeline, name=name, **kept, **editor._settings(), **options).to(editor.device)
