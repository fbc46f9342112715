"""Editing models behind one interface, one family a file. A new family is a new file and one line in `ADAPTERS`."""

__all__ = ["ADAPTERS", "BUNDLED", "adapter_of", "editor_options", "load_editor"]

import difflib
import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from editing.editors.editor import Editor

ADAPTERS = {
    "FluxKontextPipeline": "editing.editors.kontext:KontextEditor",
    "QwenImageEditPipeline": "editing.editors.qwen_image_edit:QwenImageEditEditor",
    "QwenImageEditPlusPipeline": "editing.editors.qwen_image_edit:QwenImageEditEditor",
    "StableDiffusionInstructPix2PixPipeline": "editing.editors.instruct_pix2pix:InstructPix2PixEditor",
    "StableDiffusionXLInstructPix2PixPipeline": "editing.editors.instruct_pix2pix:InstructPix2PixEditor",
}
"""Pipeline class named by a folder's model_index.json -> adapter."""
BUNDLED = {"tiny": "tiny-editor", "tiny-ip2p": "tiny-ip2p"}
"""Name of a bundled editor -> its folder among the bundled models."""


def load_editor(spec: str, **options: Any) -> Editor:
    """An editor by name: "tiny" or "tiny-ip2p" (bundled), a folder with a diffusers pipeline, or a repository of the
    Hugging Face Hub.

    Options go to the adapter, from the call or from the name, where a recipe can give them:
    "owner/name?dtype=bfloat16&max_area=262144&park=cpu". `dtype`, `max_area`, `steps`, `guidance`, `park`, `domain`
    ("any": sources that the editor was not made for, too) and `lora` (a folder with a LoRA, merged as it is loaded) are
    for all families, `image_guidance`, `text_area` and `max_tokens` for some (see the adapters); `asked`, `low` and
    `score_guidance` for editors that were fine-tuned with scores as conditions: "FOLDER?asked=quality:0.5".

    Raises ValueError for a name, an option or a device that there is not, and where the hub cannot be reached.
    """
    spec, _, query = spec.partition("?")
    folder = Path(spec)
    if spec in BUNDLED:
        from mmreward.assets import model_folder

        folder = Path(model_folder(BUNDLED[spec]))
    index = folder / "model_index.json"
    if not index.is_file():
        if folder.exists():
            raise FileNotFoundError(f"{folder} has no model_index.json; expected the folder of a diffusers pipeline")
        if "/" not in spec or spec.startswith((".", "/")):
            near = difflib.get_close_matches(spec, BUNDLED, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            known = f"Expected {', '.join(BUNDLED)}, a folder, or a hub id 'owner/name'"
            raise ValueError(f"unknown editor {spec!r}{hint} {known}")
        index = _hub_index(spec)
    adapter = adapter_of(index)
    return adapter.load(spec if not folder.exists() else folder, **editor_options(query, adapter), **options)


def _dtype(name: str) -> Any:
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ValueError(f"expected one of {', '.join(known)}")
    return known[name]


def _scores(text: str) -> float | dict[str, float]:
    """One number for all scores, or `name:number,name:number`."""
    if ":" not in text:
        return float(text)
    pairs = (part.partition(":") for part in text.split(","))
    return {name.strip(): float(number) for name, _, number in pairs}


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "dtype": _dtype,
    "max_area": int,
    "text_area": int,
    "steps": int,
    "max_tokens": int,
    "guidance": float,
    "image_guidance": float,
    "score_guidance": float,
    "asked": _scores,
    "low": _scores,
    "park": str,
    "domain": str,
    "lora": str,
}
"""Options that a name may carry -> how they are read."""


def editor_options(query: str, adapter: Any) -> dict[str, Any]:
    """The options in a name, as the adapter takes them."""
    inits = (vars(cls)["__init__"] for cls in inspect.getmro(adapter) if "__init__" in vars(cls))
    takes = {"dtype", "park", "domain", "lora"}.union(*(inspect.signature(init).parameters for init in inits))
    found: dict[str, Any] = {}
    for name, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):
        if name not in _OPTIONS or name not in takes:
            from mmreward.reward import unknown

            raise unknown(f"option of {adapter.__name__}", name, [known for known in _OPTIONS if known in takes])
        try:
            found[name] = _OPTIONS[name](value)
        except ValueError as error:
            raise ValueError(f"the editor's option {name}={value!r} cannot be read: {error}") from None
    return found


def _hub_index(repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    from editing.editors.hub import offline_first

    return offline_first(
        repository, lambda local: Path(hf_hub_download(repository, "model_index.json", local_files_only=local))
    )


def adapter_of(index: Path) -> Any:
    pipeline = json.loads(index.read_text()).get("_class_name")
    if pipeline not in ADAPTERS:
        raise ValueError(f"{index}: no adapter for the pipeline class {pipeline!r}; there is: {', '.join(ADAPTERS)}")
    module, name = ADAPTERS[pipeline].split(":")
    adapter = getattr(importlib.import_module(module), name)
    if (index.parent / "conditioned.safetensors").is_file():
        from editing.editors.conditioned import conditioned_form

        return conditioned_form(adapter)
    return adapter
