"""Reading settings: YAML in, a checked pydantic model out, and messages that name the key and how to mend it."""

__all__ = ["ConfigError", "read_config", "read_yaml"]

import difflib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(ValueError):
    """A recipe asks for something that does not exist or cannot be; the message says which key and how to mend it."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file (plain data only)."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {str(path)!r}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line} is not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} should hold `key: value` lines, got {type(values).__name__}")
    return values


def read_config(model: type[Model], values: Mapping[str, Any], where: str = "the recipe") -> Model:
    """Build `model` from `values`; on failure raise `ConfigError` with one line per problem."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None


def _explain(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    path = problem["loc"]
    key = ".".join(str(part) for part in path) or "settings"
    if problem["type"] == "missing":
        return f"missing key {key!r}"
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r})"
    known = _known_keys(model, path[:-1])
    near = difflib.get_close_matches(str(path[-1]), known, n=1) or _places(model, str(path[-1]))
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "known keys: " + ", ".join(sorted(known))
    return f"unknown key {key!r}; {hint}"


def _known_keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The keys allowed at `path` inside `model`."""
    models = [model]
    for part in path:
        fields = [m.model_fields[str(part)] for m in models if str(part) in m.model_fields]
        if fields:
            models = [found for field in fields for found in _models_in(field.annotation)]
        else:  # the tag of a union, or a key or place of the reader's own in a mapping or list
            models = [m for m in models if part in _tags(m)] or models
    return sorted({key for m in models for key in m.model_fields})


def _places(model: type[BaseModel], key: str) -> list[str]:
    """Where in `model` there is a setting of that name, with dots between the levels."""
    places = [key] if key in model.model_fields else []
    for name, field in model.model_fields.items():
        inner = {place for kind in _models_in(field.annotation) for place in _places(kind, key)}
        places += [f"{name}.{place}" for place in sorted(inner)]
    return places


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _models_in(part)]


def _tags(model: type[BaseModel]) -> set[Any]:
    return {value for field in model.model_fields.values() for value in typing.get_args(field.annotation)}
