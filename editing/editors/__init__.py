"""Editing models behind one interface, one family a file. A new family is a new file and one line in `ADAPTERS`."""

__all__ = ["ADAPTERS", "load_editor"]

import difflib
import importlib
import json
from pathlib import Path
from typing import Any

from editing.editors.editor import Editor

ADAPTERS = {"FluxKontextPipeline": "editing.editors.kontext:KontextEditor"}
"""Pipeline class named by a folder's model_index.json -> adapter."""
BUNDLED = {"tiny": "tiny-editor"}


def load_editor(spec: str, **options: Any) -> Editor:
    """An editor by name: "tiny" (bundled), a folder with a diffusers pipeline, or a repository of the Hugging Face Hub.

    Options (device, dtype, guidance, max_area, max_tokens …) go to the adapter.
    """
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
    return _adapter(index).load(spec if not folder.exists() else folder, **options)


def _hub_index(repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, "model_index.json"))
    except Exception as error:
        raise ValueError(
            f"could not read the editor {repository!r} from the Hugging Face Hub ({type(error).__name__}: {error}); "
            "check the name and the connection, or give a folder on disk"
        ) from error


def _adapter(index: Path) -> Any:
    pipeline = json.loads(index.read_text()).get("_class_name")
    if pipeline not in ADAPTERS:
        raise ValueError(f"{index}: no adapter for the pipeline class {pipeline!r}; there is: {', '.join(ADAPTERS)}")
    module, name = ADAPTERS[pipeline].split(":")
    return getattr(importlib.import_module(module), name)
