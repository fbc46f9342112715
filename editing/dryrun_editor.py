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
from typing import Any

import torch
from torch import Tensor, nn

from editing.attention import training_attention
from editing.data import Task
from editing.dryrun_network import blocks, count, measure, size_of, trained
from editing.dryrun_place import Place
from editing.dryrun_shapes import OUTLINES, PUBLISHED, Outline
from editing.editors import ADAPTERS, editor_options, load_editor
from editing.editors.buckets import bucket
from editing.recipe import Recipe
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
    others = {name: count(part) for name, part in parts if isinstance(part, nn.Module) and part is not network}
    parameters, size = count(network), size_of(network.parameters())
    learned = trained(network, editor.lora_targets, recipe)
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
    flops, saved = measure(predict, network, context)
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
        **learned,
        size=condition.size,
        latent=shape,
        flops=flops / rows,
        saved=saved / rows,
        blocks=blocks(network),
        seconds=seconds,
    )


def _context(recipe: Recipe, device: torch.device) -> Callable[[], ExitStack]:
    """What predictions run under in training."""

    def enter() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(autocast(device, recipe.loop.autocast))
        stack.enter_context(training_attention(device))
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
    module, _, kind = ADAPTERS[str(place.family)].partition(":")
    adapter = getattr(import_module(module), kind)
    options = _options(recipe.editor, place, adapter)
    published, config = PUBLISHED.get(place.name), _network_config(place, adapter.network)
    if config is None and published is None:
        return EditorFacts(place, f"its family alone: the configuration of its {adapter.network} is not here")
    others = dict(published.others) if published else {}
    if place.folder is not None:
        others |= _others(place.folder, adapter.network)
    known: dict[str, Any] = config or {"_class_name": published.network, **published.config}  # type: ignore[union-attr]
    size = bucket(1, 1, options["max_area"], 32)
    return EditorFacts(
        place,
        "its configuration" if config else "its published shape; it is not on this machine",
        others=others,
        parked=tuple(adapter.encoders) if options["park"] else (),
        dtype=options["dtype"],
        size=size,
        **_weighed(recipe, adapter, known, size, options),
    )


def _weighed(
    recipe: Recipe, adapter: Any, config: Mapping[str, Any], size: tuple[int, int], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The numbers of the network that `config` describes, for a square image.

    All of them grow by the same amount with each block of a kind, so that networks of one and of two blocks tell those
    of any (one by one, a large network takes half a minute even without weights).
    """
    import diffusers

    network = getattr(diffusers, config["_class_name"])
    outline = OUTLINES.get(config["_class_name"], Outline())
    defaults = signature(network.__init__).parameters
    counts = {key: int(config.get(key, defaults[key].default)) for key in outline.repeated}
    if recipe.policy.layers:  # which may name blocks by their numbers
        return _weigh(recipe, adapter, network.from_config, config, outline, size, options)
    one = {key: min(number, 1) for key, number in counts.items()}
    facts = base = _weigh(recipe, adapter, network.from_config, {**config, **one}, outline, size, options)
    for key, number in counts.items():
        if number > 1:
            more = _weigh(recipe, adapter, network.from_config, {**config, **one, key: 2}, outline, size, options)
            grown = {name: (number - 1) * (more[name] - base[name]) for name in _GROWING if base[name] is not None}
            facts = {**facts, **{name: facts[name] + grown[name] for name in grown}}
    return facts


_GROWING = ("parameters", "bytes", "trainable", "trainable_bytes", "layers", "flops", "saved", "blocks")


def _weigh(
    recipe: Recipe,
    adapter: Any,
    make: Callable[..., Any],
    config: Mapping[str, Any],
    outline: Outline,
    size: tuple[int, int],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    with torch.device("meta"):
        network = make(dict(config)).to(options["dtype"])
    facts: dict[str, Any] = dict.fromkeys(("trainable", "trainable_bytes", "layers", "flops", "saved", "latent"))
    facts |= {"parameters": count(network), "bytes": size_of(network.parameters()), "blocks": blocks(network)}
    if outline.inputs is None:
        return facts
    facts |= trained(network, outline.targets(adapter, network), recipe)
    dtype = torch.bfloat16 if recipe.loop.autocast == "bf16" else options["dtype"]
    network.to(dtype)
    passes, inputs = outline.passes(options), outline.inputs(network.config, size, options, dtype)
    flops, saved = measure(lambda: network(**inputs)[0], network, ExitStack)
    latent = outline.latent(network.config, size)
    return facts | {"latent": latent, "passes": passes, "flops": flops * passes, "saved": saved * passes}


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
    for part in sorted({path.parent for path in folder.glob("*/[!.]*.safetensors")}):
        if part.name != network and not part.name.startswith("safety"):
            found[part.name] = sum(_elements(path) for path in part.glob("[!.]*.safetensors"))
    return found


def _elements(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]
    return sum(int(torch.Size(shape).numel()) for shape in shapes)
