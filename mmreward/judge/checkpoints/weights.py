"""Weight files of published checkpoints: which file, whose layout, what is missing and what is left over.

Checkpoints of the Qwen-VL families come in two layouts of names, that of transformers before 4.52 ("visual.",
"model.") and the one since ("model.visual.", "model.language_model."); both are read. Safetensors only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

from mmreward.fingerprint import fingerprint
from mmreward.hub import hub_folder

__all__ = ["Weights", "complain", "download", "find_weights"]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Weights:
    """The tensors of a checkpoint by name, memory-mapped, and where they come from."""

    def __init__(self, files: list[Path], name: str) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.files, self.name = files, name
        self.tensors: dict[str, Tensor] = {}
        for file in files:
            try:
                self.tensors |= load_file(file)
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{file} cannot be read as safetensors: {error}") from None

    def backbone(self) -> dict[str, Tensor]:
        """Tensors of the vision-language model under the names "visual." and "language_model.".

        The language head is left out: a reward is read from hidden states.
        """
        found = {}
        for name, tensor in self.tensors.items():
            if not name.startswith(("rm_head", "lm_head.")):
                found[_modern(name)] = tensor
        return found

    def heads(self) -> dict[str, Tensor]:
        """Tensors of the reward heads, under their own names."""
        return {name: tensor for name, tensor in self.tensors.items() if name.startswith("rm_head")}

    def fingerprint(self) -> str:
        """Which weights these are."""
        return fingerprint(self.files)


def find_weights(name: str, revision: str | None = None) -> Weights:
    """The safetensors of a file, a folder or a hub id. Raises ValueError where there are none."""
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(
                f"{name} is no safetensors file; pickle weights can run code when they are loaded: refused"
            )
        return Weights([path], name)
    if not path.is_dir():
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise ValueError(
                f"no file or folder {name!r}; give one, or a hub id such as TIGER-Lab/EditReward-Qwen2.5-VL-7B"
            )
        path = download(name, revision)
    files = sorted(file for file in path.glob("[!.]*.safetensors") if file.name != "adapter_model.safetensors")
    if not files:
        pickles = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLES)
        if pickles:
            raise ValueError(
                f"{name} holds pickle weights only ({', '.join(pickles)}), which can run code when they are loaded; "
                "refused. Save them as safetensors first"
            )
        raise ValueError(f"{name} holds no *.safetensors weights")
    whole = [file for file in files if file.name == "model.safetensors"]
    return Weights(whole or files, name)


def complain(name: str, missing: Iterable[str], unexpected: Iterable[str], reshaped: Iterable[Any] = ()) -> None:
    """Raises ValueError that lists the keys by which a checkpoint differs from what its model needs, if any."""
    problems = []
    for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped)):
        listed = sorted(str(key) for key in keys)
        if listed:
            more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
            problems.append(f"{what}: {', '.join(listed[:5])}{more}")
    if problems:
        raise ValueError(f"the weights of {name!r} do not fit: {'; '.join(problems)}; is ?base the right model?")


def _modern(name: str) -> str:
    """A name in the layout of the model without language head: visual.*, language_model.*."""
    for old, new in _PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


_PREFIXES: Mapping[str, str] = {
    "model.visual.": "visual.",
    "model.language_model.": "language_model.",
    "model.": "language_model.",
}


def download(name: str, revision: str | None) -> Path:
    """The JSON, text and safetensors files of a hub repository, through the hub's cache. Raises ValueError."""
    return hub_folder(name, revision, ["*.json", "*.safetensors", "*.txt"])
