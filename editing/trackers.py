"""Curves where people look at curves: the entries of `log.jsonl` for TensorBoard, trackio or Weights & Biases.

    trackers = Trackers.open(["tensorboard"], folder)
    trackers.write({"kind": "train", "step": 3, "reward": 0.61, "timing": {"sample": 1.2}})
    trackers.close()

Each number becomes a curve named `kind/key`, one level deeper for mappings: train/reward, train/timing/sample,
monitor/overall. Text and missing numbers become none: a curve has a gap where there was no score. With an entry of the
monitor goes the image grid of its iteration, where `grids/` has one. A resumed run goes on in its curves: TensorBoard
and trackio find them by the folder, Weights & Biases by the id that is kept in `wandb-id.txt`. `log.jsonl` stays the
record; nothing is read back from here. None of the three packages comes with this one; each is imported when a recipe
names it.
"""

__all__ = ["TRACKERS", "Trackers", "curves"]

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from PIL import Image

from mmreward.config import ConfigError
from mmreward.reward import unknown

_PROJECT = "mmreward"


class Tracker(Protocol):
    """Where curves go."""

    def write(self, values: Mapping[str, float], grid: Path | None, step: int) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """Several trackers as one; none at all where the recipe names none. In several processes, open them in the first
    one alone.
    """

    def __init__(self, trackers: Sequence[Tracker], folder: Path) -> None:
        self.trackers, self.folder = list(trackers), Path(folder)

    @classmethod
    def open(cls, names: Sequence[str], folder: Path, resumed_step: int | None = None) -> "Trackers":
        """Raises `ConfigError` where a package is missing, before anything is written.

        `resumed_step`: the step of the checkpoint that a run goes on from; what came after it is taken back.
        """
        for name in names:
            if name not in TRACKERS:
                raise ConfigError(f"trackers: {unknown('tracker', name, TRACKERS)}")
        opened: list[Tracker] = []
        for name in dict.fromkeys(names):
            try:
                opened.append(TRACKERS[name](Path(folder), resumed_step))
            except ImportError as error:
                for tracker in opened:
                    tracker.close()
                raise ConfigError(
                    f"trackers: {name} is not installed ({error}); pip install {name}, or take it out of trackers"
                ) from None
        return cls(opened, folder)

    def write(self, entry: Mapping[str, Any]) -> None:
        """One entry of the log."""
        step = int(entry.get("step", 0))
        grid = self.folder / "grids" / f"iteration-{step:06d}.png" if entry.get("kind") == "monitor" else None
        if grid is not None and not grid.is_file():
            grid = None
        values = curves(entry)
        for tracker in self.trackers:
            tracker.write(values, grid, step)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()


def curves(entry: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a log entry by the names of their curves."""
    found: dict[str, float] = {}
    _collect(str(entry.get("kind", "run")), {k: v for k, v in entry.items() if k not in ("kind", "step")}, found)
    return found


def _collect(name: str, value: Any, found: dict[str, float]) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _collect(f"{name}/{key}", inner, found)
    elif isinstance(value, bool | int | float) and math.isfinite(value):
        found[name] = float(value)


class _TensorBoard:
    """Event files in `folder`/tensorboard: `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path, resumed_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resumed_step is None else resumed_step + 1
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def write(self, values: Mapping[str, float], grid: Path | None, step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        if grid is not None:
            with Image.open(grid) as image:
                self._writer.add_image("grid", np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Run:
    """trackio and wandb, which have the same functions. The run is named after the output folder."""

    def __init__(self, package: Any, folder: Path, resume: str, **options: Any) -> None:
        self._package = package
        package.init(project=_PROJECT, name=folder.resolve().name, resume=resume, **options)

    def write(self, values: Mapping[str, float], grid: Path | None, step: int) -> None:
        pictures = {} if grid is None else {"grid": self._package.Image(str(grid))}
        self._package.log({**values, **pictures}, step=step)

    def close(self) -> None:
        self._package.finish()


def _trackio(folder: Path, resumed_step: int | None) -> Tracker:
    import trackio

    return _Run(trackio, folder, resume="allow")  # by its name


def _wandb(folder: Path, resumed_step: int | None) -> Tracker:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "wandb-id.txt"
    if resumed_step is not None and file.is_file():  # the steps since the checkpoint, made again, are already there
        return _Run(wandb, folder, resume="must", id=file.read_text().strip(), dir=str(folder))
    file.write_text(name := uuid4().hex)
    return _Run(wandb, folder, resume="never", id=name, dir=str(folder))


TRACKERS: dict[str, Callable[[Path, int | None], Tracker]] = {
    "tensorboard": _TensorBoard,
    "trackio": _trackio,
    "wandb": _wandb,
}
"""Name, which is that of its package -> what opens it."""
