"""An editor's LoRA as diffusers writes it: one file that any diffusers pipeline of the family loads.

    save_lora(editor, "lora")                          # lora/pytorch_lora_weights.safetensors
    pipeline.load_lora_weights("lora")                 # plain diffusers
    load_editor("owner/name?lora=runs/first/lora")     # merged as it is loaded

Tools differ in where they look for alpha: in the file's header, in tensors of that name, or nowhere. So it is in the
weights: the second factor is multiplied by alpha / rank, and alpha = rank stands in the header, which is what all of
them take for granted. The bundled algorithms train one adapter, peft's "default". `editor.save` writes the merged model
instead.
"""

__all__ = ["FILE", "load_lora", "save_lora"]

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmreward.atomic import save_atomic

if TYPE_CHECKING:
    from editing.editors.pipeline import PipelineEditor

FILE = "pytorch_lora_weights.safetensors"


def save_lora(
    editor: "PipelineEditor",
    folder: str | Path,
    adapter: str = "default",
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the LoRA weights of `adapter` with its settings; the folder appears whole or not at all.

    `weights` are the trained tensors by the names of the network's parameters, for a network whose own lie in parts on
    several processes; None: the network's.
    """
    from peft.utils import get_peft_model_state_dict

    module: Any = editor.module
    configs = getattr(module, "peft_config", None) or {}
    if adapter not in configs:
        there_is = ", ".join(configs) or "none"
        raise ValueError(
            f"{editor.name} has no LoRA adapter {adapter!r} (there is: {there_is}); train one, or use save"
        )
    state = get_peft_model_state_dict(module, state_dict=dict(weights) if weights else None, adapter_name=adapter)
    scales = _scales(module, adapter)
    layers = {name: tensor.detach().cpu() * scales.get(name, 1.0) for name, tensor in state.items()}
    settings = configs[adapter].to_dict()
    settings |= {"lora_alpha": settings["r"], "alpha_pattern": dict(settings["rank_pattern"]), "use_rslora": False}
    save_atomic(
        Path(folder),
        lambda partial: type(editor.pipeline).save_lora_weights(
            partial,
            weight_name=FILE,
            safe_serialization=True,
            **{f"{editor.network}_lora_layers": layers, f"{editor.network}_lora_adapter_metadata": settings},
        ),
    )


def _scales(module: Any, adapter: str) -> dict[str, float]:
    """Name of the second factor of each adapted layer, as it is written -> what peft multiplies its output by."""
    from peft.tuners.lora import LoraLayer

    layers = ((name, layer) for name, layer in module.named_modules() if isinstance(layer, LoraLayer))
    return {f"{name}.lora_B.weight": layer.scaling[adapter] for name, layer in layers if adapter in layer.scaling}


def load_lora(pipeline: Any, folder: str | Path) -> None:
    """Merges the LoRA in `folder` into the pipeline's network."""
    file = Path(folder) / FILE
    if not file.is_file():
        raise FileNotFoundError(f"lora: {folder} has no {FILE}; expected the folder `lora` of a training run")
    pipeline.load_lora_weights(str(folder), weight_name=FILE, use_safetensors=True)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
