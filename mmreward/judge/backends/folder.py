"""Opening a judge's folder or hub id: what is refused, what is missing, and which weights these are.

Weights are read from safetensors alone: a pickle (.bin, .pt, .pth, .ckpt) can run code when it is loaded. Code that
comes with a model is never run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmreward.fingerprint import fingerprint
from mmreward.judge.backends.adapter import find_adapter, is_adapter

__all__ = ["ModelSource", "find_model"]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "tekken.json")
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class ModelSource:
    """A model to load: `path` a local folder or a hub id; `revision` asked for at the hub; `card` its mmreward.json;
    `adapter` the folder of a LoRA adapter that is to be merged into it.
    """

    path: str
    is_folder: bool
    revision: str | None = None
    card: dict[str, Any] = field(default_factory=dict)
    adapter: str | None = None

    def fingerprint(self) -> str:
        """Which weights a folder holds."""
        return fingerprint(sorted(Path(self.path).glob("[!.]*.safetensors")))


def find_model(name: str, revision: str | None = None, base: str | None = None) -> ModelSource:
    """The model that `name` means: "tiny", a folder, or a hub id such as Qwen/Qwen2.5-VL-7B-Instruct. Where the folder
    holds a LoRA adapter, the model is `base`, or the one that the adapter names.

    Raises ValueError where a folder is missing, incomplete or has pickle weights only.
    """
    if name == "tiny" and base is None:
        from mmreward.assets import model_folder

        return _folder(model_folder("tiny-judge"), revision)
    path = Path(name).expanduser()
    if path.is_dir() and is_adapter(path):
        return _adapted(path, revision, base)
    if base is not None:
        raise ValueError(f"option base is for LoRA adapters; {name} is none")
    if path.is_dir():
        return _folder(path, revision)
    if path.exists():
        raise ValueError(f"{name} is a file; the judge needs the folder that holds config.json and the weights")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"no folder {name!r}; give a folder, a hub id such as Qwen/Qwen2.5-VL-7B-Instruct, or tiny")
    return ModelSource(name, False, revision)


def _adapted(path: Path, revision: str | None, base: str | None) -> ModelSource:
    adapter = find_adapter(path)
    name = base or adapter.base
    if not name:
        raise ValueError(f"the adapter {path} does not say for which model it is; give the option base")
    try:
        model = find_model(name, revision)
    except ValueError as error:
        raise ValueError(f"the base model of the adapter {path}: {error}; give another by the option base") from None
    card = path / "mmreward.json"
    return replace(model, adapter=adapter.path, card=_json(card) if card.is_file() else {})


def _folder(path: Path, revision: str | None) -> ModelSource:
    if revision:
        raise ValueError(f"option revision is for hub ids; {path} is a folder")
    names = {file.name for file in path.iterdir()}
    missing = []
    if "config.json" not in names:
        missing.append("config.json")
    if not names & set(_TOKENIZERS):
        missing.append("tokenizer.json")
    if not names & set(_PROCESSORS):
        missing.append("processor_config.json or preprocessor_config.json")
    shards = _shards(path)
    if not shards:
        pickles = sorted(name for name in names if name.endswith(_PICKLES) and name != "training_args.bin")
        if pickles:
            raise ValueError(
                f"{path} holds pickle weights only ({', '.join(pickles)}), which can run code when they are loaded; "
                "refused. Save them as safetensors first (save_pretrained of transformers does)"
            )
        missing.append("model.safetensors")
    missing += sorted(name for name in shards if name not in names)
    if missing:
        raise ValueError(f"the model folder {path} is incomplete: {', '.join(missing)} missing; copy or save it again")
    return ModelSource(str(path), True, card=_card(path))


def _shards(path: Path) -> set[str]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        return set(_json(index).get("weight_map", {}).values())
    return {file.name for file in path.glob("[!.]*.safetensors") if file.name != "adapter_model.safetensors"}


def _card(path: Path) -> dict[str, Any]:
    card = path / "mmreward.json"
    return _json(card) if card.is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); copy it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return value
