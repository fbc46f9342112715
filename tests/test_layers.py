"""Imports point down only, and what must stay light stays light."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"mmreward": {"editing", "app"}, "editing": {"app"}}
ENTRY = ROOT / "mmreward" / "__main__.py"
"""The one file that looks up: the command line starts there, under the name that other projects do not have."""
HEAVY = {
    "torch",
    "torchvision",
    "transformers",
    "diffusers",
    "open_clip",
    "gradio",
    "ray",
    "openai",
    "pyarrow",
    "scipy",
}


def imports_of(file: Path) -> set[str]:
    """Top-level names of the packages that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written in full"
            found.add((node.module or "").split(".")[0])
    return found


def test_the_entry_point_is_the_only_way_up():
    assert imports_of(ENTRY) & set().union(*FORBIDDEN.values()) == {"app"}


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_imports_point_down(layer):
    files = [file for file in (ROOT / layer).rglob("*.py") if file != ENTRY]
    assert files
    wrong = {str(file.relative_to(ROOT)): up for file in files if (up := imports_of(file) & FORBIDDEN[layer])}
    assert not wrong


def loaded_by(program: str) -> set[str]:
    """The modules that are loaded once `program` has run in a new process."""
    program += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "program",
    [
        "import mmreward; mmreward.Edit; mmreward.Score; mmreward.load_reward; mmreward.Combination",
        "import mmreward.edit, mmreward.score, mmreward.combine, mmreward.batch",
        "from mmreward import load_reward; load_reward('pixels')",
        "import app.cli\ntry: app.cli.main(['--help'])\nexcept SystemExit: pass",
        "import app.cli\ntry: app.cli.main(['score', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_heavy_libraries_are_imported_where_they_are_used(program):
    assert not loaded_by(program) & HEAVY


@pytest.mark.parametrize("arguments", [["-c", "import mmreward"], ["-m", "mmreward", "--help"]])
def test_starts_within_a_second(arguments):
    """Processor time, the least of three: a busy machine makes that longer too, by what it does to the caches."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 1


def test_every_module_says_what_it_is_and_what_it_offers():
    for file in (file for layer in ("mmreward", "editing", "app") for file in (ROOT / layer).rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if tree.body:
            assert ast.get_docstring(tree), f"{file} has no docstring"
        if file.name != "__init__.py":
            targets = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
            assert "__all__" in [getattr(target, "id", "") for target in targets], f"{file} has no __all__"


def test_every_command_of_the_table_can_be_imported():
    from importlib import import_module

    from app.cli import COMMANDS

    for name, command in COMMANDS.items():
        module, _, function = command.where.partition(":")
        assert callable(getattr(import_module(module), function)), name
