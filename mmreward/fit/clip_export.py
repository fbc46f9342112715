"""From a trained CLIP to a folder: weights in bfloat16, configuration, tokenizer, maps, numbers and card.

The maps and the numbers are measured through the reward itself, loaded from the folder that is written, so that they
hold for what a user gets. `refit` does that part anew for a folder whose weights stay what they are:

    python -c "from pathlib import Path; from mmreward.fit.clip_export import refit; refit(Path('FOLDER'))"
"""

from __future__ import annotations

__all__ = ["Measured", "export", "fit_maps", "measure", "refit", "retrieval", "write_config"]

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmreward.edit import Edit
from mmreward.fit.card import history, history_text
from mmreward.fit.clip_data import near_scenes
from mmreward.fit.judge_check import order, spearman
from mmreward.monotone import MonotoneMap, fit_monotone
from mmreward.rewards.clip import ClipReward, load
from mmreward.score import Score
from mmreward.shapes import WORLD_VERSION, World, render
from mmreward.shapes.oracle import Truth
from mmreward.strict_json import dumps
from mmreward.training import save_atomic

if TYPE_CHECKING:
    from torch import nn

    from mmreward.fit.clip import ClipRecipe

_CARD = "mmreward.json"
_CANDIDATES = 16
_TASKS = 400
_KNOTS = 24
"""Of the maps to instruction following: what an untouched copy deserves must not blur into what a small edit does."""


@dataclass(frozen=True)
class Measured:
    """Scores of candidate edits with their true labels; `group` numbers the tasks; the first of a group is right."""

    scores: Sequence[Score]
    truths: Sequence[Truth]
    group: np.ndarray

    def raw(self, name: str) -> np.ndarray:
        return np.asarray([score.raw.get(name, np.nan) for score in self.scores])

    def dim(self, name: str) -> np.ndarray:
        return np.asarray(
            [score.overall if name == "overall" else score.dims.get(name, np.nan) for score in self.scores]
        )

    def true(self, name: str) -> np.ndarray:
        return np.asarray([getattr(truth, name) for truth in self.truths])


def export(
    clip: nn.Module,
    config: dict[str, Any],
    tokenizer: Any,
    settings: ClipRecipe,
    steps: int,
    seconds: float,
    folder: Path,
) -> None:
    """Write the model folder, whole or not at all: first with plain maps, then, measured through it, with the fitted
    ones and the card.
    """
    import torch
    from safetensors.torch import save_file

    data = settings.data
    about: dict[str, Any] = {
        "name": settings.name,
        "family": "open_clip ViT",
        "taught_by": "oracle",
        "domain": "shapes",
        "world_version": WORLD_VERSION,
        "data": (
            f"shapes world, split train, seed {data.seed}: {steps * data.groups * data.members:,} images with captions "
            f"in {steps * data.groups:,} groups (a source, edits of it, near scenes) and their instructions; without "
            "the kept-out shape-colour pairs, kinds of instruction and flaws"
        ),
        **history(settings, _about(settings.start)),
        "minutes": round(seconds / 60, 1),
        "parameters": sum(p.numel() for p in clip.parameters()),
    }

    def write(partial: Path) -> None:
        weights = {name: value.detach().to("cpu", torch.bfloat16) for name, value in clip.state_dict().items()}
        weights = {name: value.contiguous() for name, value in weights.items()}
        save_file(weights, partial / "open_clip_model.safetensors", metadata={"format": "pt"})
        write_config(partial, config)
        tokenizer.save_pretrained(partial)
        _describe(partial, about, settings.measure.fit_tasks, settings.measure.test_tasks)

    save_atomic(folder, write)


def refit(folder: Path, fit_tasks: int = _TASKS, test_tasks: int = _TASKS) -> None:
    """Fit the maps of a model folder anew and measure its numbers; its weights stay."""

    def write(partial: Path) -> None:
        shutil.copytree(folder, partial, dirs_exist_ok=True)
        _describe(partial, json.loads((partial / _CARD).read_text(encoding="utf-8")), fit_tasks, test_tasks)

    save_atomic(folder, write)


def _about(start: str | None) -> dict[str, Any]:
    """The card of the model that a run goes on from."""
    if not start:
        return {}
    from mmreward.rewards.clip_model import open_model

    return open_model(start, "cpu").about


def _describe(folder: Path, about: dict[str, Any], fit_tasks: int, test_tasks: int) -> None:
    """Write `mmreward.json` and README.md: `about`, and what is measured through the folder's own weights."""
    started = time.monotonic()
    _write_json(folder / _CARD, about)
    about |= fit_maps(load(str(folder)), fit_tasks)
    _write_json(folder / _CARD, about)
    about["numbers"] = measure(load(str(folder)), test_tasks)
    about["measured_in_minutes"] = round((time.monotonic() - started) / 60, 1)
    _write_json(folder / _CARD, about)
    (folder / "README.md").write_text(_card(about), encoding="utf-8")


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """`open_clip_config.json`: the architecture, and images in [-1, 1] at the model's size."""
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    _write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocess})


def fit_maps(reward: ClipReward, tasks: int) -> dict[str, Any]:
    """`maps` from the model's numbers to the oracle's labels, on validation tasks, and `weights` of the mapped numbers
    in instruction following: non-negative least squares.

    Untouched copies are among the edits: no move and a tiny one in any direction mean what they mean on average.
    """
    world = World("validation")
    captioned, plain = _score(reward, world, tasks, captions=True), _score(reward, world, tasks, captions=False)
    following = captioned.true("following")
    maps: dict[str, MonotoneMap] = {}
    weights: dict[str, float] = {}
    for measured, names in ((captioned, ("alignment", "direction", "progress")), (plain, ("instruction", "gain"))):
        maps |= {name: fit_monotone(measured.raw(name), following, _KNOTS) for name in names}
        weights |= _weights([measured.raw(name) for name in names], [maps[name] for name in names], names, following)
    for name in ("image", "kept"):
        maps[name] = fit_monotone(captioned.raw(name), captioned.true("preservation"))
    return {"maps": {name: found.to_json() for name, found in maps.items()}, "weights": weights}


def _weights(
    columns: Sequence[np.ndarray], maps: Sequence[MonotoneMap], names: Sequence[str], truth: np.ndarray
) -> dict[str, float]:
    from scipy.optimize import nnls

    known = np.isfinite(np.vstack([*columns, truth])).all(0)
    mapped = [[found(value) for value in column[known]] for found, column in zip(maps, columns, strict=True)]
    weights, _ = nnls(np.asarray(mapped).T, truth[known])
    return {name: round(float(weight / weights.sum()), 3) for name, weight in zip(names, weights, strict=True)}


def measure(reward: ClipReward, tasks: int) -> dict[str, Any]:
    """The numbers of the card, on test tasks that share no scene with the training."""
    world = World("test")
    captioned, plain = _score(reward, world, tasks, captions=True), _score(reward, world, tasks, captions=False)
    return {
        "candidates": len(captioned.scores),
        "with captions": _agreement(captioned),
        "with the instruction only": _agreement(plain),
        "retrieval of the caption among 16 near scenes": retrieval(reward, world, tasks),
    }


def retrieval(reward: ClipReward, world: World, tasks: int) -> float:
    """Share of images whose own caption is nearest among those of 16 scenes: the target and 15 one change away."""
    hits = []
    for task in world.tasks(tasks):
        rng = np.random.default_rng([world.seed, task.index, 78])
        distinct = {task.target.canonical: task.target}
        while len(distinct) < _CANDIDATES:
            (scene,) = near_scenes(task, 1, world.split, rng)
            distinct.setdefault(scene.canonical, scene)
        texts = [scene.caption(1) for scene in distinct.values()]
        images = reward.embed_images([_picture(render(scene, world.size)) for scene in distinct.values()])
        nearest = (images @ reward.embed_texts(texts).cpu().T).argmax(1)
        hits += [int(found) == number for number, found in enumerate(nearest)]
    return float(np.mean(hits))


def _score(reward: ClipReward, world: World, tasks: int, captions: bool) -> Measured:
    edits, truths, groups = [], [], []
    for task in world.tasks(tasks):
        source = _picture(task.source_image)
        texts: dict[str, Any] = (
            {"source_caption": task.source_caption, "target_caption": task.target_caption} if captions else {}
        )
        for candidate in world.candidates(task, _CANDIDATES):
            edits.append(Edit(task.instruction, source, _picture(candidate.image), **texts))
            truths.append(candidate.truth)
            groups.append(task.index)
    return Measured(reward.score(edits), truths, np.asarray(groups))


def _agreement(measured: Measured) -> dict[str, float]:
    """Spearman's rho per dimension, pairs of a group in the right order (`order`), groups with the right edit first."""
    names = {"following": "instruction_following", "preservation": "preservation", "overall": "overall"}
    numbers = {f"spearman {a}": spearman(measured.dim(b), measured.true(a)) for a, b in names.items()}
    rows = [np.flatnonzero(measured.group == group) for group in np.unique(measured.group)]
    scores, labels = ([column[mine] for mine in rows] for column in (measured.dim("overall"), measured.true("overall")))
    first = float(np.mean([score[0] >= score.max() for score in scores]))
    return numbers | {"pairs right": order(scores, labels).right, "true target first": first}


def _picture(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(image)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(dumps(value, indent=2) + "\n", encoding="utf-8")


def _card(about: dict[str, Any]) -> str:
    numbers = about["numbers"]
    rows = ["with captions", "with the instruction only"]
    columns = list(numbers[rows[0]])
    table = [f"| {' | '.join(['', *columns])} |", "|---" * (len(columns) + 1) + "|"]
    table += [f"| {' | '.join([row, *[f'{numbers[row][name]:.3f}' for name in columns]])} |" for row in rows]
    note = f" Note: {about['note']}." if "note" in about else ""
    found = numbers["retrieval of the caption among 16 near scenes"]
    return "\n".join(
        [
            f"# {about['name']}",
            "",
            f"An open_clip model of {about['parameters'] / 1e6:.1f} million parameters for the shapes world "
            f"({about['world_version']}): 64x64 images of coloured shapes and English about them. It knows nothing "
            "else; on a photo the reward that loads it answers `not_applicable`.",
            "",
            f"- **Data**: {about['data']}.",
            f"- **Trained** for {about['minutes']} minutes on one CPU core; weights stored in bfloat16, loaded as "
            f"float32.{note}",
            "- **Use**: `mmreward score --reward clip:tiny`, or `open_clip.create_model('local-dir:FOLDER')`.",
            "- **Maps** and weights in `mmreward.json`: cosines to the oracle's scale, fitted on validation tasks.",
            f"- **Taught by**: {about['taught_by']} of the shapes world, for the instructions and the maps.",
            "",
            history_text(about),
            "",
            f"Agreement with the oracle on {numbers['candidates']:,} candidate edits of test scenes (16 a task), and "
            f"the caption found among those of 16 scenes that differ by one change: {100 * found:.1f} % of images.",
            "",
            *table,
            "",
            "It is one part of a reward, not a judge: it does not see artefacts (quality), and preservation is read "
            "from two embeddings only.",
            "",
        ]
    )
