"""LoRA adapters: read strictly, and merged into the model when it is loaded.

E. Hu et al., "LoRA", 2021, https://arxiv.org/abs/2106.09685, in the format of PEFT: adapter_config.json and
adapter_model.safetensors. Older versions of transformers called the parts of a vision-language model by other names;
these are translated. Whatever is then missing or left over is an error: an adapter that is read in part is another
judge. So is one whose B matrices are all zero, which changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Adapter", "find_adapter", "is_adapter", "merge"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_RENAMED = (("visual.", "model.visual."), ("model.", "model.language_model."))
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Adapter:
    """A folder with an adapter, and the model that it was trained on as far as it says so."""

    path: str
    base: str | None

    def fingerprint(self) -> str:
        """SHA-256 of its weights and of what its configuration says of them."""
        digest = hashlib.sha256()
        for name in (_WEIGHTS, _CONFIG):
            digest.update((Path(self.path) / name).read_bytes())
        return f"sha256:{digest.hexdigest()}"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / _CONFIG).is_file() and not (folder / "config.json").is_file()


def find_adapter(folder: str | Path) -> Adapter:
    """The adapter in a folder. Raises ValueError where it is incomplete, has pickle weights or is of another kind."""
    path = Path(folder).expanduser()
    if not (path / _CONFIG).is_file():
        raise ValueError(f"{path} holds no {_CONFIG}; an adapter is a folder as PEFT saves it")
    if not (path / _WEIGHTS).is_file():
        pickles = sorted(file.name for file in path.glob("adapter_model.*"))
        there = f" ({', '.join(pickles)} can run code when it is loaded and is refused)" if pickles else ""
        raise ValueError(f"{path} holds no {_WEIGHTS}{there}; save the adapter as safetensors")
    try:
        config: Any = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path / _CONFIG} is not JSON ({error}); copy it again") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else config
        raise ValueError(f"{path} is an adapter of kind {kind!r}; only LORA can be merged")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise ValueError(f"{path} was begun as {start!r}, which changes the base model too; merge it where it was made")
    return Adapter(str(path), config.get("base_model_name_or_path"))


def merge(model: Any, adapter: Adapter) -> Any:
    """The model with the adapter's weights added to its own. Raises ValueError with the keys that do not fit."""
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(Path(adapter.path) / _WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{Path(adapter.path) / _WEIGHTS} cannot be read: {error}") from None
    config = LoraConfig.from_pretrained(adapter.path)
    config.inference_mode = True
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers for an attribute by its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            wrapped = PeftModel(model, config)
    except ValueError as error:  # the modules that it names are not there
        raise ValueError(f"the adapter {adapter.path} does not fit the model: {error}") from None
    wanted = {k: tuple(v.shape) for k, v in get_peft_model_state_dict(wrapped, save_embedding_layers=False).items()}
    weights = _renamed(weights, wanted)
    _check(adapter.path, {key: tuple(value.shape) for key, value in weights.items()}, wanted)
    if not any(bool(value.any()) for key, value in weights.items() if "lora_B" in key or "lora_embedding_B" in key):
        raise ValueError(f"the adapter {adapter.path} changes nothing: all its B matrices are zero")
    left = set_peft_model_state_dict(wrapped, weights).unexpected_keys
    if left:
        raise ValueError(f"the adapter {adapter.path} does not fit the model; not taken: {_some(left)}")
    broken = [key for key, value in weights.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(f"the adapter {adapter.path} cannot be merged; not finite: {_some(broken)}")
    # PEFT's safe merge rounds the change to the model's dtype before it adds it, this one rounds the sum once.
    return wrapped.merge_and_unload()


def _renamed(weights: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Weights under the names that the model wants, as far as they are known under older ones."""
    names = set(wanted)

    def name(key: str) -> str:
        inner = key.removeprefix(_PREFIX)
        for old, new in _RENAMED:
            if key not in names and inner.startswith(old) and _PREFIX + new + inner[len(old) :] in names:
                return _PREFIX + new + inner[len(old) :]
        return key

    return {name(key): value for key, value in weights.items()}


def _check(path: str, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    other = [f"{k} {found[k]} instead of {wanted[k]}" for k in sorted(found.keys() & wanted) if found[k] != wanted[k]]
    problems = [
        f"{what}: {_some(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
        if keys
    ]
    if problems:
        raise ValueError(f"the adapter {path} does not fit the model; {'; '.join(problems)}")


def _some(keys: Iterable[str]) -> str:
    named = list(keys)
    return ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")
