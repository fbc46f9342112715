"""`mmreward train RECIPE`: train an editor on rewards, or a reward itself, from a YAML recipe.

A recipe is one YAML file; its key `task` picks who runs it, by the table below, and that runner checks all other keys.
Settings of the training loop lie under `loop`, which is where `--minutes` goes. Beside the checkpoints the output
folder keeps `recipe.yaml`, the settings as they were used.
"""

__all__ = [
    "RECIPE_FOLDERS",
    "SETTINGS",
    "TASKS",
    "dry_run",
    "find_recipe",
    "read_recipe",
    "recipe_names",
    "run_recipe",
    "train",
]

import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

TASKS: dict[str, str] = {
    "judge": "mmreward.fit.judge:run",
    "clip": "mmreward.fit.clip:run",
    "vae": "editing.fit.vae:run",
    "editor": "editing.fit.editor:run",
    "ip2p": "editing.fit.ip2p:run",
    "conditioned": "editing.fit.conditioned:run",
    "grpo": "editing.trainer:run",
    "reward": "editing.trainer:run",
}
"""Task -> `module:function`; the function is `run(recipe: dict, folder: Path, resume: bool) -> None`."""

SETTINGS: dict[str, str] = {
    "judge": "mmreward.fit.judge:JudgeRecipe",
    "clip": "mmreward.fit.clip:ClipRecipe",
    "vae": "editing.fit.vae:VAERecipe",
    "editor": "editing.fit.editor:EditorRecipe",
    "ip2p": "editing.fit.ip2p:IP2PRecipe",
    "conditioned": "editing.fit.conditioned:ConditionedRecipe",
    "grpo": "editing.recipe:Recipe",
    "reward": "editing.recipe:Recipe",
}
"""Task -> `module:model` of its settings, for a dry run."""

SEVERAL_PROCESSES = ("grpo", "reward", "conditioned")
"""Tasks that share their work among the processes of a launcher; all others train in one."""

RECIPE_FOLDERS = (("mmreward", "fit/recipes"), ("editing", "recipes"))


def _bundled() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for package, place in RECIPE_FOLDERS:
        spec = find_spec(package)
        for root in (spec.submodule_search_locations if spec else None) or []:
            found |= {path.stem: path for path in sorted((Path(root) / place).glob("*.yaml"))}
    return found


def recipe_names() -> list[str]:
    """Names of the bundled recipes."""
    return sorted(_bundled())


def find_recipe(recipe: str) -> Path:
    """The file of a bundled recipe, or of a path."""
    if recipe.endswith((".yaml", ".yml")) or "/" in recipe:
        path = Path(recipe)
        if not path.is_file():
            raise FileNotFoundError(f"recipe file {recipe!r} not found; bundled recipes: {', '.join(recipe_names())}")
        return path
    bundled = _bundled()
    if recipe not in bundled:
        from mmreward.reward import unknown

        raise unknown("recipe", recipe, bundled)
    return bundled[recipe]


def read_recipe(path: Path, changes: Sequence[str] = (), minutes: float | None = None) -> dict[str, Any]:
    """The recipe as a mapping, with `key=value` changes (a dot goes one level down) and the length put in."""
    import yaml

    from mmreward.config import read_yaml

    recipe = read_yaml(path)
    if minutes is not None:
        changes = [*changes, f"loop.minutes={minutes}"]
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise ValueError(f"--set takes key=value, for example --set loop.lr=1e-4; got {change!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        *parents, last = key.split(".")
        inner = recipe
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ValueError(f"--set {change}: {parent!r} in {path.name} is a value, not a group of settings")
        inner[last] = _number(value)
    return recipe


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 (without a dot) as text; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _task_of(recipe: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The task, and the settings without it."""
    from mmreward.reward import unknown

    task = recipe.get("task")
    if task not in TASKS:
        raise unknown("task", str(task), TASKS)
    return task, {key: value for key, value in recipe.items() if key != "task"}


def _check_processes(task: str) -> None:
    """Refuses several processes that would all train the same thing in the same folder."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size != "1" and task not in SEVERAL_PROCESSES:
        raise ValueError(
            f"task {task!r} trains in one process, and a launcher started {size} (WORLD_SIZE); start it without one: "
            "mmreward train …"
        )


def dry_run(recipe: dict[str, Any], name: str, folder: Path, resume: bool) -> bool:
    """Print what a recipe would do; whether it could start. Raises ValueError for settings that are wrong."""
    from app.dry_run import show_reward_run, show_settings
    from mmreward.config import read_config
    from mmreward.training.checkpoint import refuse_to_overwrite

    task, settings = _task_of(recipe)
    _check_processes(task)
    module, _, model = SETTINGS[task].partition(":")
    read = read_config(getattr(import_module(module), model), settings)
    if TASKS[task] == "editing.trainer:run":
        from editing.dryrun import dry_run as look

        found = look(read, folder, resume)
        _print(show_reward_run(name, found))
        return not found.problems
    problems: list[str] = []
    try:
        refuse_to_overwrite(folder, resume)
    except ValueError as error:
        problems.append(f"--out: {error}")
    _print(show_settings(name, task, read.model_dump(), problems))
    return not problems


def _print(text: str) -> None:
    if _leads():
        print(text)


def _kept_recipe(out: Path | None, resume: bool) -> Path:
    """The recipe of the run in `out`, where none is named."""
    if not resume or out is None:
        raise ValueError(
            "name a recipe, or go on with a run: mmreward train --resume --out FOLDER; bundled recipes: "
            + ", ".join(recipe_names())
        )
    path = out / "recipe.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"--resume: {out} has no recipe.yaml, so it was not started by this command; name its recipe: "
            f"mmreward train RECIPE --resume --out {out}"
        )
    return path


def run_recipe(recipe: dict[str, Any], folder: Path, resume: bool) -> None:
    """Check the task, keep the settings beside the results, and train. A resumed run keeps those of its start."""
    from app.run_folder import run_folder
    from mmreward.training.checkpoint import latest_checkpoint, refuse_to_overwrite

    task, recipe = _task_of(recipe)
    _check_processes(task)
    if resume and _leads() and latest_checkpoint(folder) is None:
        raise FileNotFoundError(f"--resume: there is no checkpoint in {folder}; leave --resume out to start")
    module, _, function = TASKS[task].partition(":")
    run = getattr(import_module(module), function)
    if not _leads():
        run(recipe, folder, resume)
        return
    refuse_to_overwrite(folder, resume)
    kept = resume and (folder / "recipe.yaml").is_file()
    if kept:
        _check_same_run(task, recipe, folder / "recipe.yaml")
    with run_folder(folder, None if kept else {"task": task, **recipe}):
        run(recipe, folder, resume)


def _check_same_run(task: str, recipe: dict[str, Any], kept: Path) -> None:
    """A run goes on with the settings of its start. Reward training asks its checkpoint, which knows them all."""
    from mmreward.config import ConfigError, read_config, read_yaml
    from mmreward.training.same_run import LENGTH_AND_SAVING, differences

    if TASKS[task] == "editing.trainer:run":
        return
    before_task, before = _task_of(read_yaml(kept))
    changed = [] if before_task == task else [f"task was {before_task!r} and is {task!r}"]
    if not changed and task in SETTINGS:
        module, _, model = SETTINGS[task].partition(":")
        settings = getattr(import_module(module), model)
        dumps = [read_config(settings, values).model_dump(mode="json") for values in (before, recipe)]
        changed = differences(*dumps)
    if changed:
        raise ConfigError(
            f"--resume: {kept} says that it was another run: {'; '.join(changed)}. Only {', '.join(LENGTH_AND_SAVING)} "
            "may change; leave the recipe out to go on as it was, or choose another --out"
        )


def _leads() -> bool:
    """Whether this is the one process of a launcher's that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe file (.yaml) or the name of a bundled recipe; with --resume that of --out."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints, log and result (default: runs/RECIPE).")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the output folder.")] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Train this long instead of the recipe's length.", min=0.01)
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="key=value: change a setting; a dot goes one level down.")
    ] = None,
    lora_only: Annotated[
        bool, typer.Option("--lora-only", help="Write the trained LoRA alone, and no merged editor (policy.export).")
    ] = False,
    only_look: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would do, cost and lack, and start nothing.")
    ] = False,
) -> None:
    """Train an editor on rewards, or a reward, from a recipe.

    Examples:

      mmreward train grpo-tiny --minutes 15 --out runs/first

      mmreward train --resume --out runs/first

      mmreward train my-recipe.yaml --set loop.lr=1e-4 --set seed=1

      mmreward train kontext-8gpu --dry-run

    A dry run looks at all that the recipe names, and estimates memory and time. Exit code 2: it could not start.

    Ctrl-C writes a checkpoint and prints the command that goes on from it.
    """
    from rich.console import Console

    say = Console(stderr=True, soft_wrap=True, highlight=False)
    path = _kept_recipe(out, resume) if recipe is None else find_recipe(recipe)
    folder = out or Path("runs") / path.stem
    change = [*(change or []), *(["policy.export=lora"] if lora_only else [])]
    settings = read_recipe(path, change, minutes)

    from app.quiet import quiet

    quiet()
    if only_look:
        if not dry_run(settings, path.stem, folder, resume):
            raise typer.Exit(2)
        return
    from app.run_folder import stopped
    from mmreward.training import CheckpointError, Interrupted, TrainingError

    try:
        run_recipe(settings, folder, resume)
    except (KeyboardInterrupt, Interrupted) as stop:
        options = [] if minutes is None else ["--minutes", f"{minutes:g}"]
        options += [word for text in change for word in ("--set", text)]
        command = ["mmreward", "train", str(path) if recipe is None else recipe, "--out", str(folder), *options]
        going_on = ["mmreward", "train", "--resume", "--out", str(folder), *(options if resume else [])]
        if _leads():
            say.print(stopped(stop, folder, command, going_on), markup=False)
        raise typer.Exit(130) from None
    except (CheckpointError, TrainingError) as error:
        say.print(f"mmreward: {error}", markup=False)
        raise typer.Exit(1) from None
    if not _leads():
        return
    say.print(f"Done: {folder}", markup=False)
    if (folder / "lora").is_dir():
        base, lora = settings.get("editor", "tiny"), folder / "lora"
        spec = f"{base}{'&' if '?' in base else '?'}lora={lora}"
        say.print(f"LoRA: {lora}, for diffusers' load_lora_weights or --editor '{spec}'", markup=False)
    if TASKS[settings["task"]] == "editing.trainer:run":
        from app.web.run_report import write_run_report

        say.print(f"Report: {write_run_report(folder)}", markup=False)
