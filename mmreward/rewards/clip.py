"""CLIP as a reward: does the edited image agree with the text, did it move the way the text moved, is the rest there?

The numbers are those of `mmreward.rewards.clip_cosines`: alignment with the target caption (or the instruction),
direction and progress of the image delta along the text delta, similarity of the two images.

**Scale.** Each number goes through a monotone map to [0, 1] that is kept with the model (`mmreward.json`, "maps" and
"weights"), fitted against known labels. A model without maps gets CLIPScore's scale, min(1, 2.5 max(cos, 0)), for
alignment and direction with equal weights, and max(cos, 0) for the image similarities; progress and gain, whose scale
depends on the model, weigh nothing there. Such numbers rank edits and mean little by themselves.

    instruction_following = mapped `change` x weighted mean of the mapped alignment, direction and progress (those that
                            are defined), or of instruction (alignment with it) and gain
    preservation          = mapped `kept` with captions, else mapped `image`
    overall               = instruction_following x (0.6 + 0.4 preservation)

**Nothing for nothing.** `change` is how far the embedding of the image moved, and its map goes from 0 for the same
image to 1 for a cosine of 0.998 or less to the source. So an untouched copy has followed nothing, and one grey level
here and there is worth next to nothing more (the other numbers give it a share of what they say; the direction of such
a move is noise). Where the captions of source and target are the same, nothing was asked for and `change` counts for
nothing.

Quality is not measured. Images are resized and cropped as the model wants them, text beyond its context is cut;
provenance says both. `tensor` does the same with tensors and takes no captions: for images that need no resize it is
`score` up to rounding (1e-4), else as near as two bicubic filters are, one of bytes and one of numbers.
"""

from __future__ import annotations

__all__ = ["DEFAULT_MAPS", "DEFAULT_WEIGHTS", "ClipReward", "load"]

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmreward.domain import ANY, DOMAINS
from mmreward.edit import Edit
from mmreward.monotone import MonotoneMap
from mmreward.reward import unknown
from mmreward.rewards.base import Pointwise, outside
from mmreward.rewards.clip_cosines import Cosines, cosines
from mmreward.score import Failure, Score

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from mmreward.rewards.clip_model import ClipModel

DEFAULT_MAPS = {
    "alignment": MonotoneMap((0.0, 0.4), (0.0, 1.0)),
    "instruction": MonotoneMap((0.0, 0.4), (0.0, 1.0)),
    "direction": MonotoneMap((0.0, 0.4), (0.0, 1.0)),
    "progress": MonotoneMap((0.0, 1.0), (0.0, 1.0)),
    "gain": MonotoneMap((0.0, 0.4), (0.0, 1.0)),
    "image": MonotoneMap((0.0, 1.0), (0.0, 1.0)),
    "kept": MonotoneMap((0.0, 1.0), (0.0, 1.0)),
    "change": MonotoneMap((0.0, 0.002), (0.0, 1.0)),
}
"""For models without maps of their own. "instruction" is alignment with the instruction instead of a caption. "change"
is short on purpose: edits of a small thing move an embedding little, an invisible change moves it a thousandth of
this (`clip:tiny`: 1e-5 at most)."""

DEFAULT_WEIGHTS = {"alignment": 1.0, "direction": 1.0, "progress": 0.0, "instruction": 1.0, "gain": 0.0}
"""What each mapped number weighs in instruction following."""


def load(model: str = "", **options: str) -> ClipReward:
    """`clip:tiny`, `clip:FOLDER`, `clip:ViT-B-32/laion2b_s34b_b79k`, `clip:hf-hub:org/repo`.

    Options: `device` (default: a GPU if there is one), `batch` (images at a time, default 64), `domain` ("any" insists
    on an edit that lies outside of what the model knows).
    """
    for option in options:
        if option not in ("device", "batch", "domain"):
            raise unknown("option of 'clip'", option, ["device", "batch", "domain"])
    if not model:
        raise ValueError("the reward 'clip' needs a model, such as 'clip:tiny' or 'clip:ViT-B-32/laion2b_s34b_b79k'")
    batch = options.get("batch", "64")
    if not batch.isdigit() or int(batch) < 1:
        raise ValueError(f"option batch of 'clip' must be a whole number from 1 upwards, got {batch!r}")
    domain = options.get("domain")
    if domain is not None and domain not in DOMAINS:
        raise unknown("domain", domain, DOMAINS)
    from mmreward.rewards.clip_model import open_model

    return ClipReward(open_model(model, _device(options.get("device"))), batch=int(batch), domain=domain)


def _device(asked: str | None) -> str:
    import torch

    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.empty(0, device=asked).device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"option device of 'clip': {asked!r} cannot be used ({error})") from None


class ClipReward(Pointwise):
    """`overall` is instruction following x (0.6 + 0.4 preservation), both from cosines of embeddings; see the module.

    `raw` holds the numbers before the maps, by the names of `clip_cosines`.
    """

    dims = ("instruction_following", "preservation")
    is_differentiable = True

    def __init__(self, model: ClipModel, *, batch: int = 64, domain: str | None = None) -> None:
        import open_clip

        self.model, self.batch = model, batch
        self.name = f"clip:{model.name}"
        known_for = str(model.about.get("domain", ANY))
        self.domain = domain or known_for
        given = model.about.get("maps", {})
        if extra := set(given) - set(DEFAULT_MAPS):
            raise unknown(f"map of {model.name}", extra.pop(), DEFAULT_MAPS)
        self.maps = DEFAULT_MAPS | {name: MonotoneMap.read(value, f"map {name!r}") for name, value in given.items()}
        weights = model.about.get("weights", {})
        if extra := set(weights) - set(DEFAULT_WEIGHTS):
            raise unknown(f"weight of {model.name}", extra.pop(), DEFAULT_WEIGHTS)
        self.weights = DEFAULT_WEIGHTS | {name: float(value) for name, value in weights.items()}
        self._device = next(model.module.parameters()).device
        self._specials = _special_tokens(model.tokenize)
        settings = model.preprocessing
        self._provenance = {
            "reward": self.name,
            "version": 1,
            "revision": model.revision,
            "backend": f"open_clip {open_clip.__version__}",
            "dtype": "float32",
            "preprocessing": f"{settings['resize_mode']} {settings['size']} {settings['interpolation']}",
            "maps": "fitted" if given else "default",
            "domain": "ignored" if domain == ANY != known_for else self.domain,
        }

    def tensor(self, source: Tensor, edited: Tensor, instructions: Sequence[str]) -> Tensor:
        """`overall` as a differentiable function of images, without captions; see `mmreward.reward.Differentiable`."""
        from mmreward.tensors import score_tensors

        return score_tensors(self._overall_of, source, edited, instructions, self.domain)

    def _overall_of(self, source: Tensor, edited: Tensor, instructions: list[str]) -> Tensor:
        text = self.embed_texts([instruction.strip() for instruction in instructions])
        before, after = (self._embed_pixels(self._fit(images)) for images in (source, edited))
        moved = after - before
        mapped = {
            name: self.maps[name].tensor(value)
            for name, value in (
                ("instruction", (after * text).sum(-1)),
                ("gain", (moved * text).sum(-1)),
                ("image", (before * after).sum(-1)),
                ("change", moved.square().sum(-1) / 2),
            )
        }
        following = mapped["change"] * self._mean({name: mapped[name] for name in ("instruction", "gain")})
        return following * (0.6 + 0.4 * mapped["image"])

    def _mean(self, parts: dict[str, Any]) -> Any:
        """The weighted mean of the parts of instruction following; all alike where none of them has a weight."""
        weights = {name: self.weights[name] for name in parts}
        if not any(weights.values()):
            weights = dict.fromkeys(parts, 1.0)
        return sum(weights[name] * part for name, part in parts.items()) / sum(weights.values())

    def applies(self, edit: Edit) -> Failure | None:
        """It applies where there is a text and the source lies in the model's domain."""
        if not edit.instruction.strip() and not _captioned(edit):
            return Failure("not_applicable", "the instruction is empty, and there is no target caption")
        return outside(self.domain, edit)

    def measure(self, edits: Sequence[Edit]) -> list[Score | Failure]:
        images = [image for edit in edits for image in (edit.image("source"), edit.image("edited"))]
        pictures = self.embed_images(images)
        texts = list(dict.fromkeys(text for edit in edits for text in _texts(edit) if text is not None))
        rows = dict(zip(texts, self.embed_texts(texts).cpu(), strict=True))
        too_long = self._too_long(texts)
        scores: list[Score | Failure] = []
        for number, edit in enumerate(edits):
            source_caption, text = _texts(edit)
            source_text = None if source_caption is None else rows[source_caption]
            before, after = pictures[2 * number], pictures[2 * number + 1]
            found = cosines(before, after, source_text, rows[text], caption=_captioned(edit))
            scores.append(self._score(edit, found, bool(too_long & {source_caption, text})))
        return scores

    def _score(self, edit: Edit, found: Cosines, cut: bool) -> Score:
        provenance = {**self._provenance, "text": "target caption" if _captioned(edit) else "instruction"}
        provenance["direction"] = found.direction_is
        if cut:
            provenance["text_cut"] = f"only the first {self.model.module.context_length} tokens were read"
        values = found.values
        if not all(math.isfinite(value) for value in values.values()):
            return Score.failed("parse_error", "the model's embeddings are not finite", provenance=provenance)
        parts = {name: self.maps[name](value) for name, value in values.items() if name in self.weights}
        asked = found.direction_is != "the captions say the same"
        following = self._mean(parts) * (self.maps["change"](values["change"]) if asked else 1.0)
        kept = self.maps["kept"](values["kept"]) if "kept" in values else self.maps["image"](values["image"])
        dims = {"instruction_following": following, "preservation": kept}
        return Score(following * (0.6 + 0.4 * kept), dims, raw=values, provenance=provenance)

    def _too_long(self, texts: list[str]) -> set[str]:
        """The texts that the model reads only the beginning of: one more token of room changes their tokens."""
        room = self.model.module.context_length
        plain = [_plain(text, self._specials) for text in texts]
        short = self.model.tokenize(plain, context_length=room)
        long = self.model.tokenize(plain, context_length=room + 1)[:, :room]
        return {text for text, same in zip(texts, (short == long).all(1).tolist(), strict=True) if not same}

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit embeddings [N, D] on the CPU; images with the same pixels are encoded once."""
        import torch

        names = [_digest(image) for image in images]
        first = {name: number for number, name in reversed(list(enumerate(names)))}
        order = {name: row for row, name in enumerate(first)}
        pixels = torch.stack([self.model.preprocess(images[number]) for number in first.values()])
        with torch.no_grad():
            parts = [self._embed_pixels(part.to(self._device)).cpu() for part in pixels.split(self.batch)]
        return torch.cat(parts)[[order[name] for name in names]]

    def _embed_pixels(self, pixels: Tensor) -> Tensor:
        return _unit(self.model.module.encode_image(pixels))

    def embed_texts(self, texts: list[str]) -> Tensor:
        import torch

        ids = self.model.tokenize([_plain(text, self._specials) for text in texts]).to(self._device)
        with torch.no_grad():
            parts = [self.model.module.encode_text(part) for part in ids.split(self.batch)]
        return _unit(torch.cat(parts))

    def _fit(self, images: Tensor) -> Tensor:
        """Preprocessing of images [B, 3, H, W] in [0, 1], differentiable: what open_clip's `image_transform` does to
        a PIL image, resize, crop or padding and normalisation (and no rounding to bytes between them).
        """
        import torch
        from open_clip.transform import center_crop_or_pad
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as T

        settings = self.model.preprocessing
        size = settings["size"]
        height, width = (size, size) if isinstance(size, int) else size
        images = images.to(self._device, next(self.model.module.parameters()).dtype)
        mode = InterpolationMode.BILINEAR if settings["interpolation"] == "bilinear" else InterpolationMode.BICUBIC
        target = _resized(images.shape[-2:], (height, width), settings["resize_mode"])
        if tuple(images.shape[-2:]) != target:
            images = T.resize(images, list(target), interpolation=mode, antialias=True).clamp(0, 1)
        images = center_crop_or_pad(images, [height, width], fill=settings.get("fill_color", 0) / 255)
        mean, std = (
            torch.tensor(settings[name], device=images.device, dtype=images.dtype).view(3, 1, 1)
            for name in ("mean", "std")
        )
        return (images - mean) / std


def _resized(size: Sequence[int], wanted: tuple[int, int], resize_mode: str) -> tuple[int, int]:
    """(height, width) of an image of `size` before it is cropped or padded to `wanted`."""
    height, width = size
    ratios = height / wanted[0], width / wanted[1]
    if resize_mode == "squash":
        return wanted
    if resize_mode == "longest":
        return round(height / max(ratios)), round(width / max(ratios))
    if wanted[0] != wanted[1]:
        return round(height / min(ratios)), round(width / min(ratios))
    short, long = min(size), max(size)  # torchvision's Resize of the shorter side rounds the other one down
    longer = int(wanted[0] * long / short)
    return (wanted[0], longer) if height <= width else (longer, wanted[0])


def _unit(embeddings: Tensor) -> Tensor:
    """Embeddings [N, D] at length 1, in float32 (float64 of a model in float64)."""
    import torch
    import torch.nn.functional as F

    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)


def _texts(edit: Edit) -> tuple[str | None, str]:
    """The text that the edited image should agree with, and before it the source's caption if both are captions."""
    if not _captioned(edit):
        return None, edit.instruction.strip()
    return (edit.source_caption or "").strip() or None, (edit.target_caption or "").strip()


def _captioned(edit: Edit) -> bool:
    return bool((edit.target_caption or "").strip())


def _digest(image: Image.Image) -> bytes:
    return hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=16).digest()


def _special_tokens(tokenizer: Any) -> list[str]:
    """Special tokens as text: of a transformers tokenizer, or of open_clip's own."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None and hasattr(inner, "all_special_tokens"):
        return list(inner.all_special_tokens)
    decoder = getattr(tokenizer, "decoder", {})
    return [decoder[number] for number in getattr(tokenizer, "all_special_ids", []) if number in decoder]


def _plain(text: str, specials: Sequence[str]) -> str:
    """Text in which no special token is spelled: a person's words must not end the sequence for the model."""
    for special in specials:
        text = text.replace(special, " ".join(special))
    return text
