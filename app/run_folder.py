"""The output folder of a training run: its recipe is written before it starts, and a run that never got going leaves no
folder behind.
"""

__all__ = ["run_folder", "stopped"]

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def run_folder(folder: Path, recipe: Mapping[str, Any] | None) -> Iterator[None]:
    """`folder` holds `recipe.yaml` inside the `with`; with None the one that is there already. Where that ends with an
    error before anything was trained (there is no checkpoint, and no line of the log is of a step), the folder is as it
    was.
    """
    import yaml

    kept = folder / "recipe.yaml"
    before = kept.read_bytes() if kept.is_file() else None
    had_log = (folder / "log.jsonl").exists()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if recipe is not None:
        kept.write_text(yaml.safe_dump(dict(recipe), sort_keys=False))
    try:
        yield
    except BaseException:
        if not _has_trained(folder):
            if before is not None:
                kept.write_bytes(before)
            else:
                kept.unlink(missing_ok=True)
            if not had_log:
                (folder / "log.jsonl").unlink(missing_ok=True)
            with suppress(OSError):  # one that is not empty stays, and so do those above it
                for path in made:
                    path.rmdir()
        raise


def _has_trained(folder: Path) -> bool:
    from mmreward.training.checkpoint import latest_checkpoint
    from mmreward.training.log import read_log

    if latest_checkpoint(folder) is not None:
        return True
    return any(line.get("step") for line in read_log(folder / "log.jsonl"))


def stopped(stop: BaseException, folder: Path, command: Sequence[str], resuming: Sequence[str]) -> str:
    """After Ctrl-C: what there is to go on from, and how.

    `stop` is what was raised: `Interrupted`, or KeyboardInterrupt where nothing was saved. `command` starts anew,
    `resuming` goes on.
    """
    from mmreward.training import Interrupted
    from mmreward.training.checkpoint import latest_checkpoint

    step = stop.step if isinstance(stop, Interrupted) else latest_checkpoint(folder)
    if step is None:
        return f"Stopped before the first checkpoint; there is nothing to go on from. Again:\n  {shlex.join(command)}"
    return f"Stopped; the checkpoint of step {step} is in {folder}. Go on with:\n  {shlex.join(resuming)}"
