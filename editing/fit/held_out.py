"""Measuring an editor of the shapes world while it is trained: on validation scenes that are the same every time."""

__all__ = ["HeldOut"]

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from editing.editors.editor import Editor
from editing.fit.success import EditorSuccess, editor_success
from editing.fit.vae import reconstruction_success
from mmreward.shapes import World
from mmreward.strict_json import dumps
from mmreward.training import Checkpoint, load_checkpoint


@dataclass(frozen=True)
class HeldOut:
    """`count` validation scenes of some kinds of instruction, edited in `steps` steps; the same for all seeds."""

    kinds: tuple[str, ...]
    count: int
    steps: int

    def measure(self, editor: Editor) -> EditorSuccess:
        """What the oracle says of one edit of each scene."""
        world = self._world()
        return editor_success(editor, [world.task(index) for index in range(self.count)], self.steps)

    def ceiling(self, vae: Any) -> float:
        """Success of mere reconstructions of the true targets."""
        return reconstruction_success(vae, self._world(), self.count)

    def watching(
        self, folder: Path, minutes: float, make: Callable[[], tuple[Any, nn.Module]]
    ) -> Callable[[dict[str, Any]], None]:
        """For `fit`'s `on_log`: measures the averaged weights of each new checkpoint, at most every `minutes`, and
        writes them to `folder`/held_out.jsonl. `make` gives an editor of its own and the module that is trained.
        """
        editor, module = make()
        last = {"seconds": 0.0}

        def on_log(entry: dict[str, Any]) -> None:
            if entry["seconds"] - last["seconds"] < 60 * minutes:
                return
            found = load_checkpoint(folder)
            if found is None or found.state["seconds"] <= last["seconds"]:
                return
            last["seconds"] = entry["seconds"]
            module.load_state_dict(_averaged(found))
            editor.forget()
            held = self.measure(editor)
            print(f"step {found.step}: {held}", flush=True)
            row = {"step": found.step, "seconds": found.state["seconds"], "success": held.success}
            with (folder / "held_out.jsonl").open("a") as file:
                file.write(dumps({**row, "overall": held.overall, "by_kind": held.by_kind}) + "\n")

        return on_log

    def _world(self) -> World:
        return World("validation", kinds=self.kinds)


def _averaged(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """A module's state with the averaged weights, where the run keeps an average."""
    return {**checkpoint.tensors["weights"], **checkpoint.tensors.get("ema", {})}
