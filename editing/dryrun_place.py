"""Where an editor is: here whole, here as a configuration, or known by its name alone. Nothing is downloaded."""

__all__ = ["Place", "find_editor"]

import json
from dataclasses import dataclass
from pathlib import Path

from editing.dryrun_shapes import PUBLISHED
from editing.editors import BUNDLED, adapter_of, load_editor
from mmreward.assets import model_folder
from mmreward.config import ConfigError


@dataclass(frozen=True)
class Place:
    """Where an editor is: `folder` on this machine (with at least its configuration), or None."""

    name: str
    folder: Path | None
    family: str | None
    bytes: int
    """Of its weight files, 0 where they are not here."""


def find_editor(spec: str) -> Place:
    """Looks at this machine alone. Raises what `load_editor` would for a name that cannot be one."""
    name = spec.partition("?")[0]
    folder = Path(model_folder(BUNDLED[name])) if name in BUNDLED else Path(name)
    if not folder.exists():
        if "/" not in name or name.startswith((".", "/")):
            load_editor(spec)  # raises, with the nearest name
        cached = _cached(name)
        if cached is None:
            return Place(name, None, PUBLISHED[name].family if name in PUBLISHED else None, 0)
        folder = cached
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(
            f"editor: {folder} has no model_index.json; expected the folder of a diffusers pipeline"
        )
    weights = [path for path in folder.glob("*/[!.]*.safetensors") if not path.parent.name.startswith("safety")]
    size = sum(path.stat().st_size for path in weights)
    if not size and _is_named(folder, name):
        raise ConfigError(f"editor: {folder} has no weights (*.safetensors in the folders of its parts)")
    adapter_of(index)  # raises for a family without an adapter
    return Place(name, folder, json.loads(index.read_text())["_class_name"], size)


def _is_named(folder: Path, name: str) -> bool:
    """Whether a folder was named as such; the hub's cache may hold the configuration alone."""
    return name in BUNDLED or Path(name) == folder


def _cached(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "model_index.json")
    return Path(found).parent if isinstance(found, str) else None
