"""What the adapters over a diffusers pipeline share: loading, cached encoding, seeded noise, saving.

An adapter adds what its family does in its own way: `_encode_one`, `schedule`, `predict`, `decode` and the settings
that are stored with it. Rows are encoded one by one: a condition depends on its row alone and not on what was encoded
beside it, so that a resumed run, whose cache is empty, sees the same bytes as one that was never stopped. A folder's
`mmreward.json` may set the constructor's options under "editor".
"""

__all__ = ["PipelineEditor"]

import copy
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from PIL import Image
from torch import Tensor, nn

from editing.editors.buckets import SHAPES, Shapes, bucket
from editing.editors.device import usable_device
from editing.editors.editor import Condition, ConditionCache, Prediction, seeded_noise
from editing.editors.hub import offline_first
from editing.editors.lora import load_lora
from editing.editors.merge import merged
from mmreward.atomic import save_atomic
from mmreward.domain import ANY, DOMAINS
from mmreward.reward import unknown
from mmreward.strict_json import dumps


class PipelineEditor(ABC):
    """The family-independent half of the `Editor` protocol.

    Args:
        pipeline: its components are used as they are; `module` is the trainable one.
        max_area: pixels of the edited image; sources are resized to a bucket of that area (`editing.editors.buckets`).
        steps: sampling steps when nobody says otherwise.
        cache_bytes: encoded conditions that are kept.
        park: where the text encoders wait between encodings ("cpu" leaves their memory to the network); None keeps
            them on the device.
        domain: for which sources it is valid (`mmreward.domain`).
    """

    pipelines: ClassVar[tuple[str, ...]]
    """Names of the diffusers classes that the adapter understands."""
    network: ClassVar[str] = "transformer"
    """Component that is trained."""
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """Components that only encode text."""
    left_out: ClassVar[tuple[str, ...]] = ()
    """Components that are not loaded."""
    shapes: ClassVar[Shapes] = SHAPES
    """Of its edits, see `editing.editors.buckets`."""
    lora_targets: tuple[str, ...]
    predicts: Literal["velocity", "noise"] = "velocity"

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        name: str,
        max_area: int,
        steps: int,
        cache_bytes: int = 2**29,
        park: str | torch.device | None = None,
        domain: str = ANY,
    ) -> None:
        if domain not in DOMAINS:
            raise unknown("domain of an editor", domain, DOMAINS)
        self.pipeline, self.name, self.park, self.domain = pipeline, name, park, domain
        self.max_area, self.default_steps = max_area, steps
        self.module: nn.Module = getattr(pipeline, self.network)
        for component in (pipeline.vae, *self._text_encoders()):
            component.requires_grad_(False).eval()
        if pipeline.vae.dtype == torch.float16 and pipeline.vae.config.get("force_upcast"):
            pipeline.vae.float()  # it overflows in float16
        self._cache = ConditionCache(cache_bytes)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | torch.device | None = "cpu",
        dtype: torch.dtype = torch.float32,
        lora: str | Path | None = None,
        **options: Any,
    ) -> Self:
        """From a folder or hub id, safetensors only; options as in the constructor. `lora` is a folder that
        `editing.editors.lora.save_lora` wrote; it is merged. `device`: None is the best there is.
        """
        device = usable_device(device)
        described = Path(folder) / "mmreward.json"
        card = json.loads(described.read_text()) if described.is_file() else {}
        settings = {"domain": card.get("domain", ANY), **card.get("editor", {})}
        with _quiet():
            if Path(folder).exists():
                pipeline = cls._pipeline(folder, dtype, local=True)
            else:
                pipeline = offline_first(str(folder), lambda local: cls._pipeline(folder, dtype, local))
            if lora is not None:
                load_lora(pipeline, lora)
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline, **{"name": Path(folder).name, **settings, **options}).to(device)

    @classmethod
    def _pipeline(cls, folder: str | Path, dtype: torch.dtype, local: bool) -> DiffusionPipeline:
        index = DiffusionPipeline.load_config(folder, local_files_only=local)
        kind = index["_class_name"]
        if kind not in cls.pipelines:
            raise ValueError(f"{folder} is a {kind}; {cls.__name__} reads {' and '.join(cls.pipelines)}")
        none = {name: None for name in cls.left_out if name in index}
        return getattr(diffusers, kind).from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=local, **none
        )

    def to(self, device: str | torch.device) -> Self:
        """Everything on `device`, but parked text encoders."""
        for name, part in self.pipeline.components.items():
            if isinstance(part, nn.Module):
                part.to(device if self.park is None or name not in self.encoders else self.park)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's own weights; LoRA on it may be float32."""
        return next(self.module.parameters()).dtype

    @torch.no_grad()
    def encode(self, sources: Sequence[Image.Image], instructions: Sequence[str]) -> list[Condition]:
        if len(sources) != len(instructions):
            raise ValueError(f"encode: {len(sources)} sources for {len(instructions)} instructions")
        keys = [ConditionCache.key(source, text) for source, text in zip(sources, instructions, strict=True)]
        cached = {key: self._cache.get(key) for key in keys}
        found = {key: condition for key, condition in cached.items() if condition is not None}
        missing = [key for key in cached if key not in found]
        if missing:
            rows = [keys.index(key) for key in missing]
            with self._encoders_at_work():
                new = self._encode([sources[row] for row in rows], [instructions[row] for row in rows])
            for key, condition in zip(missing, new, strict=True):
                self._cache.put(key, condition)
                found[key] = condition
        return [found[key] for key in keys]

    def _encode(self, sources: list[Image.Image], instructions: list[str]) -> list[Condition]:
        """What is not cached; called without gradient, with the text encoders on the device."""
        return [self._encode_one(*row) for row in zip(sources, instructions, strict=True)]

    @abstractmethod
    def _encode_one(self, source: Image.Image, instruction: str) -> Condition:
        """A condition of batch size 1."""

    def forget(self) -> None:
        """Drops the cached conditions, for when the encoders have changed."""
        self._cache.clear()

    def collate(self, conditions: Sequence[Condition]) -> Condition:
        sizes = {condition.size for condition in conditions}
        if len(sizes) != 1:
            raise ValueError(f"collate: one resolution a batch, but got {sorted(sizes)}; group the rows by size")
        names = conditions[0].tensors
        tensors = {name: torch.cat([condition.tensors[name] for condition in conditions]) for name in names}
        return Condition(tensors, conditions[0].latent_shape, conditions[0].size)

    @abstractmethod
    def schedule(self, steps: int, latent_shape: tuple[int, int]) -> Tensor: ...

    def prior(self, group: str, member: int, latent_shape: tuple[int, int]) -> Tensor:
        return seeded_noise(tuple(latent_shape), "prior", group, member).to(self.device)

    @abstractmethod
    def predict(self, x: Tensor, t: float | Tensor, condition: Condition) -> Prediction: ...

    @abstractmethod
    def decode(self, latents: Tensor, condition: Condition) -> Tensor: ...

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        save_atomic(Path(folder), lambda partial: self._write(partial, dtype))

    def _write(self, folder: Path, dtype: torch.dtype | None) -> None:
        """Fills an empty folder with what `load` reads."""
        parts = {**self.pipeline.components, self.network: merged(self.module)}
        if dtype is not None:
            parts = {name: copy.deepcopy(p).to(dtype) if isinstance(p, nn.Module) else p for name, p in parts.items()}
        with _quiet():
            pipeline = copy.copy(self.pipeline)
            pipeline.register_modules(**parts)
            pipeline.save_pretrained(folder, safe_serialization=True)
        _forget_paths(folder)
        settings = {"max_area": self.max_area, "steps": self.default_steps, **self._settings()}
        described = dumps({"name": self.name, "domain": self.domain, "editor": settings}, indent=2)
        (folder / "mmreward.json").write_text(described + "\n")

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """The adapter's own options, to be stored with the weights."""

    def _text_encoders(self) -> list[nn.Module]:
        found = (getattr(self.pipeline, name, None) for name in self.encoders)
        return [encoder for encoder in found if encoder is not None]

    @contextmanager
    def _encoders_at_work(self) -> Iterator[None]:
        """The text encoders on the device inside the `with`, and back where they are parked after it."""
        if self.park is None:
            yield
            return
        for encoder in self._text_encoders():
            encoder.to(self.device)
        try:
            yield
        finally:
            for encoder in self._text_encoders():
                encoder.to(self.park)

    @property
    def multiple(self) -> int:
        """What divides the sides of its images: pixels of the autoencoder's cell, two by two of them in a token."""
        return int(self.pipeline.vae_scale_factor) * 2

    def edit_size(self, width: int, height: int) -> tuple[int, int]:
        return bucket(width, height, self.max_area, self.multiple, self.shapes)

    def _resized(self, source: Image.Image, size: tuple[int, int]) -> Image.Image:
        return self.pipeline.image_processor.resize(source.convert("RGB"), *size)

    def _pixels(self, source: Image.Image, size: tuple[int, int]) -> Tensor:
        """[1, 3, H, W] in [-1, 1], where and as the autoencoder wants it."""
        pixels = self.pipeline.image_processor.preprocess(self._resized(source, size), *size)
        return pixels.to(self.pipeline.vae.device, self.pipeline.vae.dtype)


def _forget_paths(folder: Path) -> None:
    """Configurations without the folder of this machine that they were read from."""
    for path in (folder / "model_index.json", *folder.glob("*/config.json")):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' progress bars and remarks, such as on components of another class than the family's."""
    from transformers.utils import logging as transformers_logging

    libraries = (logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity(logging.CRITICAL)  # what cannot be read is an exception besides
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks")  # of a call that diffusers makes
            yield
    finally:
        for library, (verbosity, has_bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if has_bar:
                library.enable_progress_bar()
