"""Every command that the program prints, and every one that README, docs, recipes and cards show, is parsed.

Nothing runs: the words go through the command's own parser. Commands are looked for in strings of the sources (an
f-string's fields stand for 1), in the lists of words that `shlex.join` makes a line of, and in texts, where they stand
at the start of a line, in backticks, or behind `-m`.
"""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from app.cli import COMMANDS
from app.commands.quickstart import _commands

ROOT = Path(__file__).parents[2]
PLACES = ("app", "editing", "mmreward", "assets", "docs")
TEXTS = (".md", ".yaml", ".sh")
FIELD = "1"
"""What stands for a field of an f-string: a path, a name and a number."""

REFUSED = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What a parser raises: click's own, or that of the copy which newer versions of typer carry."""

_AT_START = re.compile(r"^[\s#$>*-]*(?:\w+=\S+ )*mmreward ([a-z-]+\b.*)$")
_BY_MODULE = re.compile(r"\s-m (?:app\.cli|mmreward) ([a-z-]+\b.*)$")
_IN_BACKTICKS = re.compile(r"`(?:mmreward|[^`]* -m (?:app\.cli|mmreward)) ([a-z-][^`]*)`")
_FENCE = re.compile(r"```.*?```", re.DOTALL)


@dataclass(frozen=True)
class Printed:
    """`words` behind the name of the program, as written. `whole`: a command to copy, which lacks nothing; else it is
    mentioned in a sentence, which may name a command or an option alone."""

    where: str
    words: str
    whole: bool


def printed() -> Iterator[Printed]:
    files = [path for place in PLACES for path in sorted((ROOT / place).rglob("*")) if "__pycache__" not in path.parts]
    for path in [*files, *ROOT.glob("*.md")]:
        where = str(path.relative_to(ROOT))
        if path.suffix == ".py":
            yield from of_python(path.read_text(), where)
        elif path.suffix == ".json":
            yield from of_json(path.read_text(), where)
        elif path.suffix in TEXTS:
            yield from of_text(path.read_text(), where)


def of_python(source: str, where: str) -> Iterator[Printed]:
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        place = f"{where}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.List) and node.elts and text_of(node.elts[0]) == "mmreward":
            words = [text_of(word) or FIELD for word in node.elts[1:] if not isinstance(word, ast.Starred)]
            yield Printed(place, shlex.join(words), True)
        elif isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in inside and (text := text_of(node)):
            yield from of_text(text, place)


def of_json(source: str, where: str) -> Iterator[Printed]:
    for text in re.findall(r'"((?:[^"\\]|\\.)*)"', source):
        yield from of_text(json.loads(f'"{text}"'), where)


def text_of(node: ast.expr) -> str | None:
    """A string of the source, None for what is none."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or FIELD for part in node.values)
    return None


def of_text(text: str, where: str) -> Iterator[Printed]:
    text = re.sub(r"\\\n[\s#]*", "", text)
    fenced = "\n".join(_FENCE.findall(text))
    text = _FENCE.sub("", text)
    for match in _IN_BACKTICKS.finditer(text):
        yield Printed(where, parts_of(match.group(1).replace("\n", " "))[0], False)
    lines = [part for line in fenced.splitlines() for part in parts_of(line)]
    for line in [*lines, *_IN_BACKTICKS.sub("", text).splitlines()]:
        match = _AT_START.search(line) or _BY_MODULE.search(line)
        if match and (match.group(1).split()[0] in COMMANDS or line in fenced):
            yield Printed(where, parts_of(match.group(1))[0], True)


def parts_of(line: str) -> list[str]:
    """The commands of a line, without its comment and redirections."""
    line = re.sub(r" (?:<|>>?|2>) ?[\w./-]+", "", re.split(r"\s#(?=\s|$)", line)[0])
    return [part.strip() for part in re.split(r" (?:&&|\|\|?|then) |;", line) if part.strip()]


@cache
def parser(name: str) -> Any:
    module, _, function = COMMANDS[name].where.partition(":")
    command = typer.Typer(add_completion=False)
    command.command()(getattr(import_module(module), function))
    return typer.main.get_command(command)


def fault(command: Printed) -> str | None:
    """Why a shell and the program's parser do not take a command, None where they do."""
    name, _, rest = command.words.partition(" ")
    if name.startswith("-"):
        return None if name in ("--help", "--version", "-h", "-V") else f"no option {name}"
    if name not in COMMANDS:
        return f"there is no command {name!r}"
    outside = re.sub(r"'[^']*'|\"[^\"]*\"", "", rest)
    if command.whole and (signs := re.findall(r"[?*&<>|$(){}\[\]!;`]", outside)):
        return f"a shell takes {signs[0]} for itself: quote the word"
    try:
        words = shlex.split(rest)
        if words in (["--help"], ["-h"]):
            return None
        chosen = parser(name).make_context(name, words).params
    except REFUSED as error:
        lacks_words = type(error).__name__ == "MissingParameter"
        return None if lacks_words and not command.whole else error.format_message()
    except ValueError as error:
        return str(error)
    if command.whole and name == "edit" and not (chosen["input"] or chosen["world"]):
        lacks = [option for option in ("source", "instruction") if not chosen[option]]
        return f"edit needs rows, --world, or --source and --instruction; it has no {lacks[0]}" if lacks else None
    return None


ALL = list(printed())


def test_commands_are_found():
    """In every kind of place, so that the test below tests something."""
    places = {command.where.partition(":")[0] for command in ALL}
    assert len(ALL) > 100 and {command.words.split()[0] for command in ALL} >= COMMANDS.keys()
    assert places >= {
        "README.md",
        "app/cli.py",
        "app/commands/quickstart.py",
        "app/commands/train.py",
        "editing/fit/vae.py",
        "editing/recipes/grpo-tiny.yaml",
        "assets/models/tiny-clip/mmreward.json",
    }


def test_every_command_is_taken():
    faults = [f"{one.where}: mmreward {one.words}: {why}" for one in ALL if (why := fault(one))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("folder", [Path("runs/quickstart"), Path("my runs/it's [1]")])
def test_the_quickstart_prints_commands_that_work_whatever_its_folder(folder):
    for _, line in _commands(folder):
        program, *words = shlex.split(line)
        assert program == "mmreward" and not fault(Printed("", shlex.join(words), True))
    assert any(str(folder / "model") in shlex.split(line) for _, line in _commands(folder))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("x = f\"mmreward edit IMAGE 'make the circle blue' --editor {folder}/model\"", "unexpected extra argument"),
        ("x = shlex.join(['mmreward', 'train', recipe, '--folder', str(out), *more])", "No such option"),
        ("x = 'Go on:\\n  mmreward score edits.jsonl --reward vlm:M?way=rubric'", "a shell takes ?"),
        ("x = 'make one with `mmreward train-vae`'", "there is no command 'train-vae'"),
        ("x = 'mmreward edit --source a.png'", "it has no instruction"),
        ("x = 'mmreward filter --all'", "Missing argument"),
        ("x = 'mmreward quickstart --minutes soon'", "'--minutes'"),
        ("x = 'mmreward score \"edits.jsonl'", "No closing quotation"),
        ('"""Run it:\n\n    accelerate launch -m mmreward train grpo-tiny --outt x\n"""', "No such option"),
    ],
)
def test_a_wrong_command_is_found(source, why):
    (command,) = of_python(source, "here")
    assert why in fault(command)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("see `mmreward filter --all`, or `mmreward --help`", ["filter --all", "--help"]),
        ("```bash\npip install x && mmreward quickstart   # all of it\n```", ["quickstart"]),
        ("mmreward score - --out - < a.jsonl > b.jsonl | head", ["score - --out -"]),
        ("#   mmreward train a \\\n#       --out b", ["train a --out b"]),
        ("a bug in mmreward, and mmreward was here", []),
        (
            "`mmreward train a; then mmreward train b`, or `accelerate launch -m mmreward train c`",
            ["train a", "train c"],
        ),
    ],
)
def test_commands_are_read_out_of_texts(text, words):
    assert [command.words for command in of_text(text, "here")] == words
