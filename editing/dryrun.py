"""What a reward training recipe would do, before anything starts: its editor, groups, judge, memory and time.

    found = dry_run(recipe, folder)
    found.problems      # why it could not start, with the key or file of each; empty where it could

Everything is looked at that can go wrong early: roles, what the algorithm needs and the reward gives, files and their
first images, the output folder. One group of edits (copies of a source, a pixel apart) goes through the reward where it
is small, which shows rewards that have no score for these tasks at all. Nothing is written, downloaded or asked of a
server. Memory and time are estimates, and say what they rest on.
"""

__all__ = ["ASSUMED_FLOPS", "Counts", "DryRun", "Seconds", "dry_run"]

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image

from editing.algorithms.algorithm import Algorithm
from editing.data import FileTasks, Task, TaskConfig, Tasks, load_tasks
from editing.dryrun_editor import EditorFacts, look
from editing.dryrun_iteration import predictions, seconds_of_parts, window_places
from editing.dryrun_place import Place, find_editor
from editing.dryrun_reward import Part, declare
from editing.dryrun_tokens import Tokens, tokens
from editing.parts import parts_of
from editing.recipe import Recipe
from editing.roles import Spec, check_roles, in_role
from editing.winrate import judge_of
from mmreward.edit import Edit
from mmreward.judge.reward import JudgeReward
from mmreward.reward import Reward
from mmreward.training import TrainingError
from mmreward.training.checkpoint import refuse_to_overwrite

ASSUMED_FLOPS = 2e14
"""Multiplications and additions a second that an 80 GB GPU is taken to do in bfloat16, about half of an A100's peak and
a fifth of an H100's."""
_OPENED = 8
"""Tasks that are opened of each file."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Counts:
    """Predictions of the network in one iteration, of one sample each (the mean, where iterations differ)."""

    samples: int
    examples: int
    """Of each sample, in training."""
    sampled: int
    trained: int
    """With gradient."""
    compared: int
    """Without gradient in training: by the starting weights or the old policy."""
    held: int = 0
    """Of both, those of the anchor."""


@dataclass(frozen=True)
class Seconds:
    """Of one iteration, by part; `measured` here and now, or from an assumed speed."""

    parts: Mapping[str, float]
    measured: bool


@dataclass
class DryRun:
    """What was found. Values are None where they cannot be known here."""

    recipe: Recipe
    device: torch.device
    problems: list[str] = field(default_factory=list)
    editor: EditorFacts | None = None
    counts: Counts | None = None
    rows: dict[str, int | None] = field(default_factory=dict)
    """"data", "monitor", "final" -> rows of the file; None: the shapes world."""
    unreadable: dict[str, dict[str, str]] = field(default_factory=dict)
    """The same -> rows that would be left out, as far as they were opened: id -> why."""
    roles: dict[str, list[Part]] = field(default_factory=dict)
    tokens: dict[str, Tokens] = field(default_factory=dict)
    """Of one group, by judge."""
    reward_seconds: float | None = None
    """Of one edit."""
    parts_seconds: Mapping[str, float] | None = None
    """Of the parts of an iteration, after a small one that was made for real."""

    @property
    def memory(self) -> dict[str, float | None]:
        """Bytes on the device of one process, by what they are for."""
        return _memory(self)

    @property
    def host_memory(self) -> float:
        """Bytes in main memory, of what is parked there."""
        editor = self.editor
        parked = [editor.others.get(name) or 0 for name in editor.parked] if editor else []
        return sum(parked) * (editor.dtype.itemsize if editor else 0)

    @property
    def seconds(self) -> Seconds | None:
        return _seconds(self)


def dry_run(recipe: Recipe, folder: Path, resume: bool = False) -> DryRun:
    """Looks at everything that `recipe` names. What keeps it from starting goes to `problems`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = DryRun(recipe, device)
    attempt = _Attempts(found.problems)
    attempt("--out", lambda: refuse_to_overwrite(folder, resume))
    attempt("roles", lambda: check_roles(recipe.roles))
    algorithm = attempt("algorithm", lambda: _algorithm(recipe))
    if algorithm:
        found.counts = _counts(recipe, algorithm)
    tasks = _tasks(found, attempt)
    rewards = _rewards(found, attempt)
    if place := attempt("editor", lambda: find_editor(recipe.editor)):
        probe = None if found.problems else tasks.get("data")
        found.editor = attempt("editor", lambda: look(recipe, place, probe, device)) or _unknown(place)
    judge = _judge(recipe, attempt, algorithm, rewards.get("reward"))
    if "data" in tasks and judge:
        _probe(found, judge, tasks["data"])
    for role in ("monitor", "final"):
        if not found.problems and role in tasks and role in rewards and all(part.loaded for part in found.roles[role]):
            edit = tasks[role].edit(_copies(tasks[role].source, 1)[0], with_target=True)
            _check_scores(found, role, rewards[role], [edit])
    if not found.problems and found.reward_seconds is not None and found.seconds and found.seconds.measured:
        estimate = sum(found.seconds.parts.values())
        found.parts_seconds = attempt("loop", lambda: seconds_of_parts(recipe, rewards["reward"], device, estimate))
    return found


class _Attempts:
    """Runs checks and keeps why they failed."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems

    def __call__(self, key: str, check: Callable[[], Found]) -> Found | None:
        try:
            return check()
        except (ValueError, OSError, TrainingError) as error:
            said = str(error)
            self.problems.append(said if said.startswith(key) else f"{key}: {said}")
            return None


def _algorithm(recipe: Recipe) -> Algorithm:
    from editing.trainer import load_algorithm

    return load_algorithm(recipe)


def _unknown(place: Place) -> EditorFacts:
    return EditorFacts(place, "nothing: it could not be opened")


def _counts(recipe: Recipe, algorithm: Algorithm) -> Counts:
    rollout, needs = recipe.rollout, algorithm.needs
    samples = rollout.groups * rollout.members
    examples = rollout.window if needs.trajectory else needs.levels
    trained, updates = samples * examples, recipe.loop.updates
    places = window_places(rollout)
    held = updates * math.ceil(samples / updates / recipe.anchor.every) if recipe.anchor else 0
    return Counts(
        samples=samples,
        examples=examples,
        sampled=round(sum(predictions(rollout, place) for place in range(places)) / places),
        trained=trained + held,
        compared=trained * (int(needs.reference) + int(needs.old is not None)) + held,
        held=held,
    )


# ---- data and rewards


def _tasks(found: DryRun, attempt: _Attempts) -> dict[str, Task]:
    """The first task of each role's data; all files are read, and a few images of each opened."""
    evaluation = found.recipe.evaluation
    sources = {"data": ("data.file", found.recipe.data), "monitor": ("evaluation.monitor.file", evaluation.monitor)}
    if found.recipe.roles.final is not None:
        sources["final"] = ("evaluation.final.file", evaluation.final)
    first = {}
    for role, (key, config) in sources.items():
        if opened := attempt(key if config.file else key.removesuffix(".file"), lambda config=config: _open(config)):  # type: ignore[misc]
            tasks, first[role] = opened
            found.rows[role] = len(tasks.rows) if isinstance(tasks, FileTasks) else None
            found.unreadable[role] = tasks.unreadable if isinstance(tasks, FileTasks) else {}
    return first


def _open(config: TaskConfig) -> tuple[Tasks, Task]:
    tasks = load_tasks(config)
    count = min(_OPENED, len(tasks.rows)) if isinstance(tasks, FileTasks) else 1
    return tasks, [tasks.task(index) for index in range(count)][0]


def _rewards(found: DryRun, attempt: _Attempts) -> dict[str, Reward]:
    recipe, rewards = found.recipe, {}
    for role, spec in recipe.roles.specs.items():
        parts: list[Part] = []
        reward = attempt(f"roles.{role}", partial(_declared, recipe, role, spec, parts))
        if reward is not None:
            found.roles[role], rewards[role] = parts, reward
    return rewards


def _declared(recipe: Recipe, role: str, spec: Spec, parts: list[Part]) -> Reward:
    return in_role(recipe.roles, role, declare(spec, parts))


def _judge(recipe: Recipe, attempt: _Attempts, algorithm: Algorithm | None, reward: Reward | None) -> Reward | None:
    """What the algorithm learns from: `reward`, or win rates by its comparisons."""
    if reward is None or algorithm is None:
        return reward
    judge = attempt("roles.reward", lambda: judge_of(reward, algorithm.needs))
    attempt("advantage", lambda: parts_of(judge, recipe.advantage) if judge else None)
    return judge or reward


def _probe(found: DryRun, reward: Reward, task: Task) -> None:
    """One group: what its judges are asked, and, where all is here, its scores and their time."""
    parts = found.roles["reward"]
    edits = [task.edit(image) for image in _copies(task.source, found.recipe.rollout.members)]
    judges = {part.spec: part.reward for part in parts if isinstance(part.reward, JudgeReward)}
    found.tokens = tokens(reward, judges, {part.spec: part.processor for part in parts}, edits)
    if all(part.loaded for part in parts):
        began = time.monotonic()
        _check_scores(found, "reward", reward, edits)
        found.reward_seconds = (time.monotonic() - began) / len(edits)


def _copies(source: Image.Image, count: int) -> list[Image.Image]:
    """Copies of an image that differ by a pixel."""
    made = []
    for number in range(count):
        image = source.convert("RGB")
        image.putpixel((0, 0), (number % 256, 128, 128))
        made.append(image)
    return made


def _check_scores(found: DryRun, role: str, reward: Reward, edits: list[Edit]) -> None:
    scores = reward.score(edits)
    if scores and not any(score.ok for score in scores):
        found.problems.append(f"roles.{role}: no score for a first task: {scores[0].status}, {scores[0].error}")


# ---- what it costs


def _memory(found: DryRun) -> dict[str, float | None]:
    editor, recipe, counts = found.editor, found.recipe, found.counts
    if editor is None or editor.bytes is None:
        return {}
    size, trainable = editor.dtype.itemsize, editor.trainable
    rest = [count for name, count in editor.others.items() if name not in editor.parked]
    copies = 2 + (recipe.policy.ema > 0) + (counts is not None and counts.compared > counts.trained)
    rows: dict[str, float | None] = {
        "network": float(editor.bytes),
        "other parts": None if None in rest else float(sum(count or 0 for count in rest) * size),
        "gradients": None if trainable is None else 4.0 * trainable,
        "optimiser": None if trainable is None else (4.0 if recipe.loop.optimizer == "muon" else 8.0) * trainable,
        "policies": None if trainable is None else 4.0 * copies * trainable,
        "activations": _activations(editor, recipe),
        "samples": None,
    }
    if editor.latent and counts:
        kept = 1 + 3 * recipe.rollout.window
        rows["samples"] = 4.0 * counts.samples * kept * editor.latent[0] * editor.latent[1]
    local = [part.bytes for parts in found.roles.values() for part in parts]
    rows["rewards"] = None if None in local else float(sum(one or 0 for one in local))
    return rows


def _activations(editor: EditorFacts, recipe: Recipe) -> float | None:
    """Of one micro-batch. With gradient checkpointing one block's, and the input of each (one in about 16 tensors that
    a block keeps).
    """
    if editor.saved is None:
        return None
    whole = editor.saved * min(recipe.loop.micro_batch, recipe.rollout.groups * recipe.rollout.members)
    return whole * (1 / editor.blocks + 1 / 16) if recipe.loop.gradient_checkpointing else whole


def _seconds(found: DryRun) -> Seconds | None:
    editor, counts, recipe = found.editor, found.counts, found.recipe
    if editor is None or counts is None:
        return None
    again = int(recipe.loop.gradient_checkpointing)
    if found.parts_seconds:
        return Seconds(found.parts_seconds, True)
    if editor.seconds:
        one = editor.seconds
        parts = {
            "sample": counts.sampled * one["sample"],
            "decode": counts.samples * one["decode"],
            "update": counts.trained * (one["train"] + again * one["sample"]) + counts.compared * one["sample"],
        }
        if found.reward_seconds is not None:
            parts["reward"] = counts.samples * found.reward_seconds
        return Seconds(parts, True)
    if editor.flops is None:
        return None
    backward = 2 if recipe.policy.weights == "full" else 1  # LoRA needs no gradients of the frozen weights
    each = editor.flops / ASSUMED_FLOPS
    train = counts.trained * (1 + backward + again) + counts.compared
    return Seconds({"sample": counts.sampled * each, "update": train * each}, False)
