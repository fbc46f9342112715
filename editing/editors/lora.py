"""An editor's LoRA as diffusers writes it: one file that any diffusers pipeline of the family loads.

    save_lora(editor, "lora")                          # lora/pytorch_lora_weights.safetensors
    pipeline.load_lora_weights("lora")                 # plain diffusers; its alpha is in the file

The bundled algorithms train one adapter, peft's "default". `editor.save` writes the merged model instead.
"""

__all__ = ["save_lora"]

import shutil
from pathlib import Path
from typing import Any

from peft.utils import get_peft_model_state_dict

from editing.editors.pipeline import PipelineEditor


def save_lora(editor: PipelineEditor, folder: str | Path, adapter: str = "default") -> None:
    """Writes the LoRA weights of `adapter` with its settings; the folder appears whole or not at all."""
    module: Any = editor.module
    configs = getattr(module, "peft_config", None) or {}
    if adapter not in configs:
        there_is = ", ".join(configs) or "none"
        raise ValueError(
            f"{editor.name} has no LoRA adapter {adapter!r} (there is: {there_is}); train one, or use save"
        )
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    layers = {
        f"{editor.network}_lora_layers": get_peft_model_state_dict(module, adapter_name=adapter),
        f"{editor.network}_lora_adapter_metadata": configs[adapter].to_dict(),
    }
    type(editor.pipeline).save_lora_weights(partial, safe_serialization=True, **layers)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
