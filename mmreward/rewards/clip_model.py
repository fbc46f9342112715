"""Opening open_clip models: from a folder, or from the hub by the names that open_clip gives them.

Weights are read from safetensors only. A model that is published as pickle alone is refused, because reading a pickle
can run code; a folder is checked before anything in it is read.
"""

from __future__ import annotations

__all__ = ["ClipModel", "open_model"]

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmreward.hub import hub_folder

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz", ".npy")
_CONFIG = "open_clip_config.json"
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""What is downloaded of a repository of the hub."""


@dataclass(frozen=True)
class ClipModel:
    """A model in float32, ready to encode.

    preprocess: PIL image to float [3, size, size], normalised. preprocessing: the settings of that, as open_clip names
    them (size, mean, std, interpolation, resize_mode). tokenize: texts (and a context_length) to int64
    [B, L]. revision: digest of the weights. about: what the model says of itself (`mmreward.json`): domain, maps;
    empty for a model without.
    """

    name: str
    module: Any  # a CLIP of open_clip, whose methods have no types
    preprocess: Callable[[Image.Image], Tensor]
    preprocessing: dict[str, Any]
    tokenize: Callable[..., Tensor]
    revision: str
    about: dict[str, Any] = field(default_factory=dict)


def open_model(name: str, device: str) -> ClipModel:
    """`name`: a folder, "tiny" (bundled), "hf-hub:org/repo", or "ARCHITECTURE/TAG" as in `open_clip.list_pretrained()`.

    Raises ValueError with the nearest known name, FileNotFoundError for a missing file, ValueError for pickle weights.
    """
    if name == "tiny":
        from mmreward.assets import model_folder

        return _from_folder(model_folder("tiny-clip"), "tiny", device)
    if name.startswith("hf-hub:"):
        return _from_folder(hub_folder(name.removeprefix("hf-hub:"), patterns=_FILES), name, device)
    path = Path(name.removeprefix("local-dir:")).expanduser()
    if name.startswith("local-dir:") or path.is_dir():
        return _from_folder(path, str(path), device)
    return _from_hub_name(name, device)


def _from_folder(folder: Path, name: str, device: str) -> ClipModel:
    import open_clip

    weights = _check_folder(folder)
    try:
        module = open_clip.create_model(f"local-dir:{folder}", precision="fp32", device=device, require_pretrained=True)
        tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    except (KeyError, TypeError, RuntimeError, OSError) as error:
        raise ValueError(f"{folder} cannot be loaded by open_clip: {error}") from error
    return _ready(name, module, tokenize, weights, _about(folder))


def _check_folder(folder: Path) -> Path:
    """The weights of a model folder; says what is missing or refused."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no model folder {str(folder)!r}")
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        text = config["model_cfg"]["text_cfg"]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder} holds no {_CONFIG}: an open_clip folder has that file, safetensors weights and, "
            "where the configuration names one, its tokenizer"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / _CONFIG} is not an open_clip configuration ({error!r})") from None
    if text.get("hf_tokenizer_name") and not (folder / "tokenizer_config.json").exists():
        raise FileNotFoundError(f"{folder} holds no tokenizer_config.json, and its configuration asks for a tokenizer")
    found = sorted(path for path in folder.glob("[!.]*.safetensors"))
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if not found and pickles:
        raise ValueError(
            f"{folder} holds its weights as pickle ({', '.join(pickles)}), which can run code when it is read: "
            "refused. Save them as safetensors"
        )
    if not found:
        raise FileNotFoundError(f"{folder} holds no *.safetensors weights")
    preferred = [path for path in found if path.name in ("open_clip_model.safetensors", "model.safetensors")]
    if len(found) > 1 and len(preferred) != 1:
        raise ValueError(f"{folder} holds several weight files ({', '.join(p.name for p in found)}): keep one")
    return (preferred or found)[0]


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "mmreward.json"
    if not path.exists():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path} should hold an object, got {type(about).__name__}")
    return about


def _from_hub_name(name: str, device: str) -> ClipModel:
    import open_clip

    known = [f"{architecture}/{tag}" for architecture, tag in open_clip.list_pretrained()]
    if name not in known:
        raise _no_such_model(name, known)
    architecture, tag = name.split("/", 1)
    published = open_clip.get_pretrained_cfg(architecture, tag)
    weights = _download_weights(name, str(published.get("hf_hub", "")))
    module = open_clip.create_model(
        architecture,
        pretrained=str(weights),
        precision="fp32",
        device=device,
        force_quick_gelu=bool(published.get("quick_gelu", False)),
        force_preprocess_cfg={key: published[key] for key in ("mean", "std", "interpolation", "resize_mode")},
    )
    return _ready(name, module, open_clip.get_tokenizer(architecture), weights, {})


def _no_such_model(name: str, known: list[str]) -> ValueError:
    """Names the nearest models and where the whole list is (it has some two hundred names)."""
    import difflib

    near = difflib.get_close_matches(name, ["tiny", *known], n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ValueError(
        f"unknown CLIP model {name!r}.{hint} There is: 'tiny' (bundled), a folder, 'hf-hub:org/repo', and the "
        f"{len(known)} names of open_clip.list_pretrained() as ARCHITECTURE/TAG, such as 'ViT-B-32/laion2b_s34b_b79k'"
    )


def _download_weights(name: str, address: str) -> Path:
    """The safetensors file of a published model, through the hub's cache."""
    repository = address.rstrip("/")
    files = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
    for file in files:
        path = hub_folder(repository, patterns=[file]) / file
        if path.is_file():
            return path
    raise ValueError(
        f"the hub repository {repository!r} of {name!r} holds no safetensors weights ({', '.join(files)}); pickle "
        "weights are refused. Choose another TAG"
    )


def _ready(name: str, module: Any, tokenize: Callable[..., Tensor], weights: Path, about: dict[str, Any]) -> ClipModel:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    module.eval().requires_grad_(False)
    preprocessing = dict(module.visual.preprocess_cfg)
    preprocess = image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)
    with weights.open("rb") as file:
        revision = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return ClipModel(name, module, preprocess, preprocessing, tokenize, revision, about)
