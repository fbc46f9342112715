"""`mmreward quickstart`: the whole loop on the bundled models, in a few minutes on a laptop, with a page at the end.

Scores the bundled example edits; trains the bundled editor with GRPO on the recommended reward (the recipe `grpo-tiny`,
shortened); measures it before and after with the oracle, which nothing was trained on; writes `quickstart.html` (and
`mmreward report` writes its own page, `report.html`, beside that).
"""

__all__ = ["quickstart"]

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from editing.recipe import Recipe
    from editing.trainer import Result

_CHANGES = (
    "evaluation.final_tasks=192",
    "evaluation.every=8",
    "loop.save_minutes=1",
    "loop.compile=false",
)
"""What is shorter here than in the recipe `grpo-tiny`."""
_EXAMPLES = 6
_MEMBERS = 3
_PAGE = "quickstart.html"
"""Another name than that of the page of a training run."""
_DESCRIPTION = "GRPO on the recommended reward (judge, CLIP, pixels)"


def quickstart(
    out: Annotated[Path | None, typer.Option(help="Folder for the run and its page, quickstart.html.")] = None,
    minutes: Annotated[float, typer.Option(help="Minutes of training.", min=0.05)] = 4.0,
) -> None:
    """See the whole loop work: score edits, train the bundled editor on the scores, look at the result.

    Needs no download and no GPU; under 5 minutes on two CPU cores.

    Examples:

      mmreward quickstart

      mmreward quickstart --minutes 10 --out runs/longer
    """
    from rich.console import Console

    from app.quiet import quiet

    quiet()
    console = Console(highlight=False, soft_wrap=True)
    folder = _free(out)
    console.rule("[bold]1 of 3  Scoring the bundled example edits", align="left")
    _score_examples(console)
    console.rule(f"[bold]2 of 3  Training the bundled editor for {minutes:g} minutes", align="left")
    console.print(f"{_DESCRIPTION}; the oracle, which it never sees, measures it at the end.")
    recipe, result = _train(folder, minutes, console)
    console.rule("[bold]3 of 3  Before and after", align="left")
    path = _report(folder, recipe, result)
    _say_result(console, result, path, folder)


def _free(out: Path | None) -> Path:
    """The folder that was asked for, or the first unused name under runs/."""
    if out is not None:
        if out.exists() and any(out.iterdir()):
            raise FileExistsError(f"--out: {out} is not empty; choose another folder")
        return out
    folder, number = Path("runs/quickstart"), 1
    while folder.exists():
        number += 1
        folder = Path(f"runs/quickstart-{number}")
    return folder


def _score_examples(console: "Console") -> None:
    from app.score_table import show
    from mmreward import load_reward
    from mmreward.assets import example_edits
    from mmreward.batch import read_rows, score_rows

    rows = read_rows(example_edits())
    with console.status("loading the recommended reward"):
        reward = load_reward("recommended")
    show(list(score_rows(rows, reward)), reward, rows, None, console)


def _train(folder: Path, minutes: float, console: "Console") -> tuple["Recipe", "Result"]:
    from app.commands.train import find_recipe, read_recipe
    from app.run_folder import run_folder, stopped
    from editing.recipe import Recipe
    from editing.trainer import train
    from mmreward.config import read_config
    from mmreward.training import Interrupted

    settings = read_recipe(find_recipe("grpo-tiny"), _CHANGES, minutes)
    recipe = read_config(Recipe, {key: value for key, value in settings.items() if key != "task"})
    try:
        with run_folder(folder, settings):
            return recipe, train(recipe, folder)
    except (KeyboardInterrupt, Interrupted) as stop:
        again = ["mmreward", "quickstart", "--minutes", f"{minutes:g}"]
        resuming = ["mmreward", "train", "--resume", "--out", str(folder)]
        console.print(stopped(stop, folder, again, resuming), markup=False)
        raise typer.Exit(130) from None


def _report(folder: Path, recipe: "Recipe", result: "Result") -> Path:
    from app.web.report import Report, write_report

    assert result.before is not None and result.after is not None
    return write_report(
        folder,
        Report(
            title="mmreward quickstart",
            lead=f"The bundled editor, trained for {result.seconds / 60:.1f} minutes: {_DESCRIPTION}.",
            numbers=_numbers(folder, result),
            examples=_examples(folder, recipe, result),
            figures=_figures(folder),
            commands=_commands(folder),
            notes=[
                "The oracle reads the shapes in an edited image exactly; it is the final measure, on test scenes and "
                "with the same starting noise before and after. Nothing was trained on it.",
                "An edit that the oracle cannot read has no score: it is no success, and left out of the mean.",
            ],
            score_name="oracle score",
            facts=_facts(recipe, result),
        ),
        _PAGE,
    )


def _numbers(folder: Path, result: "Result") -> list[Any]:
    from app.web.report import Number
    from mmreward.training import read_log

    assert result.before is not None and result.after is not None
    log = read_log(folder / "log.jsonl")
    rewards = [line["reward"] for line in log if line["kind"] == "train"]
    edge = max(1, min(3, len(rewards) // 2))
    watched = [line["overall"] for line in log if line["kind"] == "monitor"]
    tasks = f"{len(result.after.scores)} test scenes, paired noise"
    return [
        Number("success by the oracle", result.before.success, result.after.success, "share", "final", tasks),
        Number("mean oracle score", result.before.overall, result.after.overall, "score", "final", tasks),
        Number("share of the way to the target", watched[0], watched[-1], "score", "monitor", "validation scenes"),
        Number(
            "recommended reward",
            sum(rewards[:edge]) / edge,
            sum(rewards[-edge:]) / edge,
            "score",
            "reward",
            "edits made with noise, while training",
        ),
    ]


def _examples(folder: Path, recipe: "Recipe", result: "Result") -> list[Any]:
    """A few test tasks, each edited from the same starting noise before and after."""
    from app.web.report import Example, Shown
    from editing.data import load_tasks
    from editing.editors import load_editor
    from editing.evaluation import sample
    from mmreward import load_reward

    assert result.before is not None and result.after is not None
    tasks = [load_tasks(recipe.evaluation.final).task(index) for index in range(_EXAMPLES)]
    oracle = load_reward(recipe.roles.final or "oracle")
    strips = []
    for spec in (recipe.editor, str(folder / "model")):
        editor = load_editor(spec)
        shown: list[list[Shown]] = [[] for _ in tasks]
        for member in range(_MEMBERS):
            images = sample(editor, tasks, recipe.rollout.steps, noise=f"example-{member}")
            scores = oracle.score([task.edit(image) for task, image in zip(tasks, images, strict=True)])
            for place, (image, score) in enumerate(zip(images, scores, strict=True)):
                shown[place].append(Shown(image, score.overall if score.ok else None, score.status))
        strips.append(shown)
    return [
        Example(task.instruction, task.source, before, after)
        for task, before, after in zip(tasks, *strips, strict=True)
    ]


def _figures(folder: Path) -> list[Any]:
    from app.web.report import Curve, Figure
    from mmreward.training import read_log

    log = read_log(folder / "log.jsonl")
    curves = []
    for kind, key, label in (("train", "reward", "recommended reward"), ("monitor", "overall", "progress to target")):
        lines = [line for line in log if line["kind"] == kind]
        curves.append(Curve(label, [line["seconds"] / 60 for line in lines], [line[key] for line in lines]))
    return [
        Figure("What it was trained on", curves[:1], "minutes", "mean reward of an iteration's edits"),
        Figure(
            "What was watched beside it",
            curves[1:],
            "minutes",
            "share of the way to the target",
            note="Validation scenes, the same starting noise each time.",
        ),
    ]


def _facts(recipe: "Recipe", result: "Result") -> list[tuple[str, str]]:
    rollout, loop = recipe.rollout, recipe.loop
    return [
        ("recipe", "grpo-tiny, shortened"),
        ("time", f"{result.seconds / 60:.1f} minutes, {result.iterations} iterations"),
        ("edits", f"{result.iterations * rollout.groups * rollout.members} scored while training"),
        ("learning rate", f"{loop.lr:g}"),
        ("seed", str(loop.seed)),
    ]


def _commands(folder: Path) -> list[tuple[str, str]]:
    edit = ["mmreward", "edit", "--source", "IMAGE", "--instruction", "make the circle blue"]
    edit += ["--editor", str(folder / "model")]
    return [
        ("The whole run, 15 minutes", "mmreward train grpo-tiny --out runs/grpo"),
        ("Edit an image with what was trained", shlex.join(edit)),
        ("Score your own edits", "mmreward score edits.jsonl --out scores.parquet"),
        ("Look at edits in the browser", "mmreward app"),
    ]


def _say_result(console: "Console", result: "Result", path: Path, folder: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    assert result.before is not None and result.after is not None
    table = Table(box=None, header_style="dim")
    for title in ("held-out measure (oracle)", "before", "after"):
        table.add_column(title, justify="left" if title.startswith("held") else "right")
    before, after = result.before, result.after
    table.add_row("mean score", f"{before.overall:.3f}", f"{after.overall:.3f}")
    table.add_row("success", f"{before.success or 0:.1%}", f"{after.success or 0:.1%}")
    console.print(table)
    console.print(f"\nReport: [bold]{path.resolve()}[/bold]\n\nGo on:")
    for what, command in _commands(folder):
        console.print(f"  {escape(command)}   [dim]# {what}[/dim]", soft_wrap=True)
