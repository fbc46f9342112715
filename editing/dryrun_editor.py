"""What an editor is and what it costs, before anything starts: parameters, LoRA, work and memory of a forward pass.

An editor whose weights are small and on this machine is loaded and timed. Of a larger one the configuration is enough:
its network is built without weights (torch's meta device), which gives exact parameters and LoRA layers, its
multiplications, and what a forward pass keeps for the backward pass. Where not even the configuration is here, the
shapes of a few published models are known; nothing is downloaded.
"""

__all__ = ["EditorFacts", "look"]

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from editing.data import Task
from editing.dryrun_place import Place
from editing.dryrun_shapes import OUTLINES, PUBLISHED, Outline
from editing.editors import ADAPTERS, editor_options, load_editor
from editing.editors.buckets import bucket
from editing.recipe import Recipe
from editing.weights import Policies
from mmreward.training.loop import autocast

LOADED_BYTES = 512 * 2**20
"""Weights up to this size are loaded and timed."""
_PROBE_ROWS = 16


@dataclass(frozen=True)
class EditorFacts:
    """What is known; None where it is not. Costs are of one sample in one prediction, guidance included."""

    place: Place
    known_from: str
    parameters: int | None = None
    bytes: int | None = None
    others: Mapping[str, int | None] = field(default_factory=dict)
    """Other components -> parameters."""
    parked: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32
    trainable: int | None = None
    trainable_bytes: int | None = None
    layers: int | None = None
    """Layers with LoRA."""
    size: tuple[int, int] | None = None
    latent: tuple[int, int] | None = None
    passes: int = 1
    flops: float | None = None
    saved: float | None = None
    """Bytes kept for the backward pass, without gradient checkpointing."""
    blocks: int = 1
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Measured: "sample" (a prediction without gradient), "train" (with, forward and backward), "decode"."""


def look(recipe: Recipe, place: Place, task: Task | None, device: torch.device) -> EditorFacts:
    """The facts of a recipe's editor; `task` is one to probe a small editor with, None for the facts alone."""
    if task is not None and place.folder is not None and 0 < place.bytes <= LOADED_BYTES:
        return _loaded(recipe, place, task, device)
    if place.family is None:
        known = f"nothing: {place.name} is not on this machine, and its shape is not known here"
        return EditorFacts(place, known)
    return _outlined(recipe, place)


# ---- small ones, for real


def _loaded(recipe: Recipe, place: Place, task: Task, device: torch.device) -> EditorFacts:
    editor: Any = load_editor(recipe.editor, device=device)
    network = editor.module
    parts = editor.pipeline.components.items()
    others = {name: _count(part) for name, part in parts if isinstance(part, nn.Module) and part is not network}
    parameters, size = _count(network), _bytes(network.parameters())
    trained = _trained(network, editor.lora_targets, recipe)
    rows = min(_PROBE_ROWS, recipe.loop.micro_batch)
    condition = editor.collate(editor.encode([task.source], [task.instruction])).repeat(rows)
    shape = condition.latent_shape
    x = torch.stack([editor.prior("dry run", member, shape) for member in range(rows)])
    level = float(editor.schedule(recipe.rollout.steps, shape)[1])

    def predict() -> Tensor:
        return editor.predict(x, level, condition).x0

    def train() -> None:
        predict().sum().backward()

    context = _context(recipe, device)
    flops, saved = _measure(predict, network, context)
    with torch.no_grad():
        seconds = {"sample": _seconds(predict, context, device) / rows}
        seconds["decode"] = _seconds(lambda: editor.decode(x, condition), context, device) / rows
    seconds["train"] = _seconds(train, context, device) / rows
    return EditorFacts(
        place,
        "its weights, loaded",
        parameters,
        size,
        others,
        tuple(editor.encoders) if editor.park else (),
        editor.dtype,
        **trained,
        size=condition.size,
        latent=shape,
        flops=flops / rows,
        saved=saved / rows,
        blocks=_blocks(network),
        seconds=seconds,
    )


def _context(recipe: Recipe, device: torch.device) -> Callable[[], ExitStack]:
    """What predictions run under in training."""

    def enter() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(autocast(device, recipe.loop.autocast))
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        return stack

    return enter


def _seconds(run: Callable[[], Any], context: Callable[[], ExitStack], device: torch.device) -> float:
    """Of the second call: the first makes caches."""
    took = 0.0
    for _ in range(2):
        began = time.monotonic()
        with context():
            run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        took = time.monotonic() - began
    return took


# ---- large ones, without weights


def _outlined(recipe: Recipe, place: Place) -> EditorFacts:
    import diffusers

    published = PUBLISHED.get(place.name)
    module, _, kind = ADAPTERS[str(place.family)].partition(":")
    adapter = getattr(import_module(module), kind)
    options = _options(recipe.editor, place, adapter)
    config = _network_config(place, adapter.network)
    if config is None and published is None:
        return EditorFacts(place, f"its family alone: the configuration of its {adapter.network} is not here")
    kind = str((config or {}).get("_class_name") or (published.network if published else ""))
    outline = OUTLINES.get(kind)
    with torch.device("meta"):
        network = getattr(diffusers, kind).from_config(config or published.config).to(options["dtype"])  # type: ignore[union-attr]
    others = dict(published.others) if published else {}
    if place.folder is not None:
        others |= _others(place.folder, adapter.network)
    size = bucket(1, 1, options["max_area"], 32)
    facts: dict[str, Any] = {
        "parameters": _count(network),
        "bytes": _bytes(network.parameters()),
        "others": others,
        "parked": tuple(adapter.encoders) if options["park"] else (),
        "dtype": options["dtype"],
        "size": size,
        "blocks": _blocks(network),
    }
    if outline is not None:
        facts |= _trained(network, outline.targets(adapter, network), recipe)
        facts |= _worked(recipe, outline, network, size, options)
    how = "its configuration" if config else "its published shape; it is not on this machine"
    return EditorFacts(place, how, **facts)


def _worked(
    recipe: Recipe, outline: Outline, network: Any, size: tuple[int, int], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Work and memory of a prediction for a square image."""
    dtype = torch.bfloat16 if recipe.loop.autocast == "bf16" else options["dtype"]
    network.to(dtype)
    passes = outline.passes(options)
    inputs = outline.inputs(network.config, size, options, dtype)
    flops, saved = _measure(lambda: network(**inputs)[0], network, ExitStack)
    return {
        "latent": outline.latent(network.config, size),
        "passes": passes,
        "flops": flops * passes,
        "saved": saved * passes,
    }


def _options(spec: str, place: Place, adapter: Any) -> dict[str, Any]:
    """What the adapter would be made with: its defaults, the folder's settings, the name's options."""
    defaults = {name: one.default for name, one in signature(adapter).parameters.items()}
    defaults |= {"dtype": torch.float32, "park": None}
    described = place.folder / "mmreward.json" if place.folder else None
    stored = json.loads(described.read_text()).get("editor", {}) if described and described.is_file() else {}
    return defaults | stored | editor_options(spec.partition("?")[2], adapter)


def _network_config(place: Place, network: str) -> dict[str, Any] | None:
    if place.folder is None:
        return None
    path = place.folder / network / "config.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _others(folder: Path, network: str) -> dict[str, int | None]:
    """Parameters of the other components, from the headers of their weight files."""
    found: dict[str, int | None] = {}
    for part in sorted({path.parent for path in folder.glob("*/*.safetensors")}):
        if part.name != network and not part.name.startswith("safety"):
            found[part.name] = sum(_elements(path) for path in part.glob("*.safetensors"))
    return found


def _elements(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]
    return sum(int(torch.Size(shape).numel()) for shape in shapes)


# ---- both


def _trained(network: Any, targets: tuple[str, ...], recipe: Recipe) -> dict[str, Any]:
    """What the recipe's policy trains in `network`, which is made trainable so."""
    editor: Any = SimpleNamespace(module=network, lora_targets=targets)
    with torch.device(next(network.parameters()).device):
        policies = Policies.of(editor, recipe.policy, ())
    parameters = policies.parameters()
    layers = sum(hasattr(module, "lora_A") for module in network.modules())
    return {
        "trainable": sum(p.numel() for p in parameters),
        "trainable_bytes": _bytes(parameters),
        "layers": layers or None,
    }


def _measure(predict: Callable[[], Tensor], network: nn.Module, context: Callable[[], ExitStack]) -> tuple[int, int]:
    """Multiplications and additions of a prediction, and bytes that it keeps for the backward pass."""
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own and not _is_attention(tensor):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with context(), hooks, FlopCounterMode(display=False) as counter:
        predict()
    return int(counter.get_total_flops()), sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _is_attention(tensor: Tensor) -> bool:
    """Attention's own matrices, which no GPU kernel keeps."""
    return tensor.device.type == "meta" and tensor.ndim > 2 and tensor.shape[-1] == tensor.shape[-2]


def _blocks(network: nn.Module) -> int:
    """Blocks that gradient checkpointing would compute again one by one."""
    lists = (module for module in network.modules() if isinstance(module, nn.ModuleList))
    return max(sum(len(one) for one in lists if hasattr(one, "__len__") and _is_blocks(one)), 1)


def _is_blocks(modules: nn.ModuleList) -> bool:
    return any("Block" in type(module).__name__ for module in modules)


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _bytes(parameters: Any) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
