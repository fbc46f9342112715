"""The command line `mmreward …`: one explicit table, one file a command, imported when it is called.

A command is a function with typer annotations; it returns nothing, or raises `typer.Exit(1)` when some rows failed.
What the caller got wrong is a ValueError or an OSError with a message for people; here it becomes exit code 2. Set
MMREWARD_TRACEBACK=1 to see where an error came from. People start it through `mmreward.__main__`.
"""

__all__ = ["COMMANDS", "main"]

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Command:
    where: str
    """`module:function`"""
    help: str


COMMANDS: dict[str, Command] = {
    "quickstart": Command("app.commands.quickstart:quickstart", "See the whole loop work: score, train, look."),
    "score": Command("app.commands.score:score", "Score edits in a file or folder."),
    "compare": Command("app.commands.compare:compare", "Compare pairs of edits of one source."),
    "filter": Command("app.commands.filter:filter", "Keep the best part of a set of triplets."),
    "edit": Command("app.commands.edit:edit", "Edit images, several candidates each, best first."),
    "train": Command("app.commands.train:train", "Train an editor or a reward from a recipe."),
    "report": Command("app.commands.report:report", "Show what a training run did, as one page."),
    "doctor": Command("app.commands.doctor:doctor", "Ask a reward what is known, and say what is wrong with it."),
    "app": Command("app.commands.app:app", "Look at edits and their scores in the browser."),
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command; exit codes are those of the overview below."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(_overview())
        raise SystemExit(0 if arguments else 2)
    if arguments[0] in ("--version", "-V"):
        from mmreward import __version__

        print(f"mmreward {__version__}")
        raise SystemExit(0)
    name, *rest = arguments
    if name not in COMMANDS:
        from mmreward.reward import unknown

        _say(f"{unknown('command', name, COMMANDS)} Try: mmreward --help")
        raise SystemExit(2)
    _run(name, rest)


def _run(name: str, arguments: list[str]) -> None:
    import typer

    module, _, function = COMMANDS[name].where.partition(":")
    command = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    command.command(context_settings={"help_option_names": ["--help", "-h"]})(
        _for_people(getattr(import_module(module), function))
    )
    command(arguments, prog_name=f"mmreward {name}")


def _for_people(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, with what it raises turned into a message and an exit code."""
    import typer

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        with _noting_interrupts() as interrupted:
            try:
                function(*args, **kwargs)
            except (typer.Exit, typer.Abort):
                raise
            except KeyboardInterrupt as stop:
                _say(str(stop) or "stopped")
                raise typer.Exit(130) from None
            except BrokenPipeError:  # whoever read the output has had enough of it: `| head`
                raise typer.Exit(0) from None
            except Exception as error:
                if os.environ.get("MMREWARD_TRACEBACK"):
                    raise
                if interrupted.is_set():  # what a library made of it
                    _say("stopped")
                    raise typer.Exit(130) from None
                if isinstance(error, ValueError | OSError):
                    _say(str(error))
                    raise typer.Exit(2) from None
                _say(f"{type(error).__name__}: {error}\nThis is a bug in mmreward; MMREWARD_TRACEBACK=1 shows where.")
                raise typer.Exit(3) from None

    return run


@contextmanager
def _noting_interrupts() -> Iterator[threading.Event]:
    """Set once Ctrl-C was pressed: a library may turn the KeyboardInterrupt into an error of its own."""
    interrupted = threading.Event()

    def interrupt(number: int, frame: Any) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)  # another one than Python's: ignored, as by nohup, or the caller's own
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _say(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text("mmreward: ", "bold red") + Text(message, ""))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items())
    return (
        "Score edited images, and train image editors on the scores.\n\n"
        f"Usage: mmreward COMMAND [OPTIONS]\n\n{rows}\n\n"
        "Examples:\n"
        "  mmreward quickstart\n"
        "  mmreward score edits.jsonl --reward pixels --out scores.parquet\n"
        "  mmreward score --help\n\n"
        "Exit codes:\n"
        "  0    all of it worked\n"
        "  1    some rows failed (the output says which, and why), or nothing was scored, or training failed\n"
        "  2    the call was wrong: an option, a file, a recipe; nothing was done\n"
        "  3    a bug in mmreward (MMREWARD_TRACEBACK=1 shows where)\n"
        "  130  stopped by Ctrl-C\n"
    )


if __name__ == "__main__":
    main()
