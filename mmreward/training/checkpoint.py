"""Checkpoints that are whole or absent, hold everything, and contain no pickle.

A checkpoint is a folder ``checkpoint-00001234`` of safetensors files and one ``state.json`` with the sizes and
SHA-256 of all the others. It is filled under another name, flushed to disk, and renamed: a kill between any two
writes leaves the previous one in place. Older ones are removed only after that. `pack_optimizer` and `random_state`
turn what is not a flat table of tensors into one and a JSON value, so that a run resumed equals a run never stopped,
bit for bit on a CPU.
"""

from __future__ import annotations

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "check_weights",
    "latest_checkpoint",
    "load_checkpoint",
    "pack_optimizer",
    "random_state",
    "refuse_to_overwrite",
    "restore_random_state",
    "save_atomic",
    "save_checkpoint",
    "unpack_optimizer",
]

import hashlib
import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmreward.atomic import save_atomic
from mmreward.config import ConfigError
from mmreward.training.sharded import like

_PREFIX = "checkpoint-"
Tensors = dict[str, torch.Tensor]


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, or belongs to another model; the message names the file and says how to go on."""


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint held: tables of tensors by name, and the JSON state."""

    path: Path
    step: int
    tensors: dict[str, Tensors]
    state: dict[str, Any]


def _storable(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Contiguous CPU tensors of which no two share memory (safetensors refuses those)."""
    stored: Tensors = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.numel() and value.data_ptr() in seen:
            value = value.clone()
        seen.add(value.data_ptr())
        stored[name] = value
    return stored


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _steps(folder: Path) -> list[int]:
    names = [path.name[len(_PREFIX) :] for path in Path(folder).glob(_PREFIX + "*")]
    return sorted(int(name) for name in names if name.isdigit())


def latest_checkpoint(folder: Path) -> int | None:
    """The step of the newest checkpoint in `folder`, or None."""
    steps = _steps(folder)
    return steps[-1] if steps else None


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, torch.Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write checkpoint `step` into `folder` whole or not at all, then remove the older ones; an existing one is never
    replaced. `CheckpointError` where it cannot be written (a full disk): the older ones are still there then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def write(partial: Path) -> None:
        files = {}
        for name, table in tensors.items():
            path = partial / f"{name}.safetensors"
            save_file(_storable(table), path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
        (partial / "state.json").write_text(json.dumps({"step": step, "files": files, "state": dict(state)}))

    folder = Path(folder)
    path = folder / f"{_PREFIX}{step:08d}"
    if not path.exists():
        try:
            save_atomic(path, write)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(folder / f".{path.name}.partial", ignore_errors=True)
            last = latest_checkpoint(folder)
            kept = "there is no earlier one" if last is None else f"that of step {last} is kept"
            raise CheckpointError(
                f"checkpoint {path} could not be written ({error}); {kept}. Make room on the disk (or choose another "
                "--out), and go on with --resume"
            ) from error
    for older in _steps(folder):
        if older < step:
            shutil.rmtree(folder / f"{_PREFIX}{older:08d}", ignore_errors=True)
    for cut_short in folder.glob(f".{_PREFIX}*"):
        shutil.rmtree(cut_short, ignore_errors=True)
    return path


def refuse_to_overwrite(folder: Path, resume: bool) -> None:
    """Without `resume`, a folder that already holds a checkpoint is not touched."""
    step = latest_checkpoint(folder)
    if step is not None and not resume:
        raise ConfigError(
            f"{folder} already holds a checkpoint of step {step}: add --resume to go on from it, "
            "or choose another --out"
        )


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of `folder`, checked file by file; None when there is none; `CheckpointError` when it is
    damaged.
    """
    from safetensors.torch import load_file

    step = latest_checkpoint(folder)
    if step is None:
        return None
    path = Path(folder) / f"{_PREFIX}{step:08d}"
    mend = f"Remove {path} and resume from an older copy, or start again with another output folder."
    try:
        record = json.loads((path / "state.json").read_text())
        files, state = record["files"], record["state"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint file {path / 'state.json'} is missing or damaged ({error}). {mend}"
        ) from None
    tensors: dict[str, Tensors] = {}
    for name, expected in files.items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != expected["bytes"] or _digest(file) != expected["sha256"]:
            found = "it is missing" if size is None else f"it has {size} bytes"
            raise CheckpointError(
                f"checkpoint file {file} is damaged: {expected['bytes']} bytes with SHA-256 "
                f"{expected['sha256'][:12]}… were written, {found}. {mend}"
            )
        tensors[Path(name).stem] = load_file(file)
    return Checkpoint(path, int(record["step"]), tensors, state)


def check_weights(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], where: Path) -> None:
    """Raise `CheckpointError` unless both tables have the same names and shapes: a checkpoint of another model is
    refused.
    """
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not in this model" for name in found if name not in expected]
    problems += [
        f"{name} has shape {tuple(found[name].shape)}, this model {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    if problems:
        raise CheckpointError(
            f"{where} is a checkpoint of another model: {problems[0]}"
            + (f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else "")
            + ". Use the recipe it was made with, or another output folder."
        )


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """An optimiser's state as a flat table of tensors and a JSON value."""
    full = optimizer.state_dict()
    tensors: Tensors = {}
    scalars: dict[str, Any] = {}
    for index, entry in full["state"].items():
        for name, value in entry.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                scalars[f"{index}/{name}"] = value
    return tensors, {"scalars": scalars, "param_groups": full["param_groups"]}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], packed: Mapping[str, Any]
) -> None:
    """Put back what `pack_optimizer` took; whole tensors become parts where the parameters are parts."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *packed["scalars"].items()]:
        index, name = key.split("/", 1)
        part = like(value, parameters[int(index)]) if isinstance(value, torch.Tensor) else value
        state.setdefault(int(index), {})[name] = part
    groups = [
        {key: tuple(value) if isinstance(value, list) and key != "params" else value for key, value in group.items()}
        for group in packed["param_groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def random_state() -> tuple[Tensors, dict[str, Any]]:
    """The state of Python's, numpy's and torch's global generators (all devices)."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    kind, keys, *rest = np.random.get_state()
    version, internal, gauss = random.getstate()
    return tensors, {"numpy": [str(kind), np.asarray(keys).tolist(), *rest], "python": [version, list(internal), gauss]}


def restore_random_state(tensors: Mapping[str, torch.Tensor], packed: Mapping[str, Any]) -> None:
    """Put back what `random_state` took."""
    torch.set_rng_state(tensors["torch"])
    cuda = [tensors[key] for key in sorted((k for k in tensors if k.startswith("cuda")), key=lambda k: int(k[4:]))]
    if cuda and torch.cuda.device_count() == len(cuda):
        torch.cuda.set_rng_state_all(cuda)
    kind, keys, *rest = packed["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *rest))
    version, internal, gauss = packed["python"]
    random.setstate((version, tuple(internal), gauss))
