"""PickScore: how much people would prefer the edited image as a picture of a text, by a CLIP model tuned on choices.

    pickscore:yuvalkirstain/PickScore_v1        CLIP-H, or a folder in the same layout

Y. Kirstain et al., "Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation", NeurIPS 2023:

    raw = exp(logit_scale) cos(image, text), between 18 and 25 for most images

The text is the edit's target caption, else its instruction, which provenance says; the source is never seen. Between
candidates of one text, softmax(raw) is the model's probability of being chosen; hence

    overall = 1 / (1 + exp(-(raw - 21))): the probability of being chosen over an image whose raw is 21

Text beyond the model's 77 tokens is cut, with its end token in place; provenance says so.
"""

from __future__ import annotations

__all__ = ["SCALE", "PickScoreReward", "load"]

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmreward.edit import Edit
from mmreward.hub import hub_folder
from mmreward.judge.checkpoints.weights import complain, find_weights
from mmreward.judge.options import DTYPE_NAMES, take_choice, take_whole
from mmreward.reward import unknown
from mmreward.rewards.base import Pointwise
from mmreward.rewards.preference import SCALE_OPTIONS, Scale, take_scale, text_of, without_text
from mmreward.score import Failure, Score

_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
SCALE = Scale(21.0, 1.0)
_OPTIONS = ("batch", "device", "dtype", "processor", "revision", *SCALE_OPTIONS)


def load(model: str = "", **options: str) -> PickScoreReward:
    """`pickscore:MODEL`: a hub id or a folder with a CLIPModel in safetensors.

    Options: `processor` (folder or hub id of tokenizer and image processor; default: the folder itself where it has
    them, else laion/CLIP-ViT-H-14-laion2B-s32B-b79K as published), `centre` and `scale` of the map to [0, 1] (default
    21 and 1), `device`, `dtype` (default float32), `revision` of a hub id, `batch` (edits at a time, default 32).
    """
    if not model:
        raise ValueError("the reward 'pickscore' needs a model, such as 'pickscore:yuvalkirstain/PickScore_v1'")
    scale, batch = take_scale(options, SCALE), take_whole(options, "batch", 32)
    dtype = take_choice(options, "dtype", "float32", DTYPE_NAMES)
    own = Path(model).expanduser()
    processor = options.pop("processor", model if (own / "preprocessor_config.json").is_file() else _PROCESSOR)
    device, revision = options.pop("device", None), options.pop("revision", None)
    for option in options:
        raise unknown("option of 'pickscore'", option, _OPTIONS)
    module, digest = _open(model, revision, dtype)
    import torch

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        module = module.to(place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"option device of 'pickscore': {device!r} cannot be used ({error})") from None
    return PickScoreReward(module, _processor(processor), name=model, revision=digest, scale=scale, batch=batch)


def _open(model: str, revision: str | None, dtype: str) -> tuple[Any, str]:
    """The CLIP model with all of its weights and nothing else, and their digest."""
    weights = find_weights(model, revision)
    from transformers import CLIPConfig, CLIPModel

    config = weights.files[0].parent / "config.json"
    if not config.is_file():
        raise ValueError(f"{config.parent} holds no config.json of a CLIPModel")
    # Older files hold the position numbers, which the model counts by itself now.
    tensors = {name: tensor for name, tensor in weights.tensors.items() if not name.endswith(".position_ids")}
    try:
        module, report = CLIPModel.from_pretrained(
            None,
            config=CLIPConfig.from_pretrained(config.parent, local_files_only=True),
            state_dict=tensors,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (KeyError, TypeError, OSError) as error:
        raise ValueError(f"{config} is not the configuration of a CLIPModel: {error}") from error
    complain(model, report["missing_keys"], report["unexpected_keys"], report["mismatched_keys"])
    return module.eval().requires_grad_(False), weights.fingerprint()


def _processor(name: str) -> Any:
    from transformers import CLIPProcessor

    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = hub_folder(name, patterns=["*.json", "*.txt"])
    try:
        return CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a broken or foreign folder makes transformers raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the processor {name!r} cannot be opened: {first}; name one with ?processor=") from None


class PickScoreReward(Pointwise):
    """`overall` is the raw score through a logistic map. `raw` has `pickscore` and the `cosine`.

    One dimension, `preference`: the picture and its agreement with the text in one number.
    """

    dims = ("preference",)
    needs = ("edited",)

    def __init__(
        self,
        module: Any,
        processor: Any,
        *,
        name: str,
        revision: str | None = None,
        scale: Scale = SCALE,
        batch: int = 32,
    ) -> None:
        self.module, self.processor, self.scale, self.batch = module, processor, scale, batch
        self.name = f"pickscore:{name}"
        self._longest = int(module.config.text_config.max_position_embeddings)
        self._factor = float(module.logit_scale.detach().float().exp())
        self._provenance = {
            "reward": self.name,
            "revision": revision,
            "backend": "transformers",
            "dtype": str(module.dtype).removeprefix("torch."),
            "given_text": "special tokens split",
            **scale.about,
        }

    def applies(self, edit: Edit) -> Failure | None:
        """It applies where there is a text."""
        return without_text(edit)

    def about(self, edit: Edit) -> dict[str, Any]:
        return {"text": text_of(edit)[1]}

    def measure(self, edits: Sequence[Edit]) -> list[Score | Failure]:
        import torch

        with torch.inference_mode():
            cosines, cut = self._cosines([text_of(edit)[0] for edit in edits], [edit.image("edited") for edit in edits])
        return [self._score(cosine, short) for cosine, short in zip(cosines, cut, strict=True)]

    def _cosines(self, texts: list[str], images: list[Any]) -> tuple[list[float], list[bool]]:
        """Cosine of each text and image, and whether the text was cut."""
        from torch.nn.functional import normalize

        tokenizer, device = self.processor.tokenizer, self.module.device
        texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]  # half a surrogate pair
        plain = tokenizer(texts, split_special_tokens=True, truncation=False)["input_ids"]
        cut = [len(ids) > self._longest for ids in plain]
        ids = [[*row[: self._longest - 1], row[-1]] if short else row for row, short in zip(plain, cut, strict=True)]
        inputs = tokenizer.pad({"input_ids": ids}, padding=True, return_tensors="pt").to(device)
        pixels = self.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
        text = self.module.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
        image = self.module.get_image_features(pixels.to(device, self.module.dtype)).pooler_output
        return (normalize(text.float(), dim=-1) * normalize(image.float(), dim=-1)).sum(-1).tolist(), cut

    def _score(self, cosine: float, cut: bool) -> Score | Failure:
        if not math.isfinite(cosine):
            return Failure("parse_error", "the model's embeddings are not finite (NaN or infinity)")
        raw = self._factor * cosine
        provenance = {"text_cut": f"only the first {self._longest} tokens were read"} if cut else {}
        overall = self.scale(raw)
        return Score(overall, {"preference": overall}, raw={"pickscore": raw, "cosine": cosine}, provenance=provenance)
