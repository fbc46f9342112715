"""Is it the same run? A checkpoint goes on with the recipe that it was made with.

What says how long a run is, when and in what form it is saved, and where its curves go may change; so may the address of a server,
whose model stays. Everything else would make another run of it, which the log and the report would tell as one.
"""

__all__ = ["check_same_run"]

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from editing.recipe import Recipe, load_algorithm
from mmreward.config import ConfigError, read_config

MAY_CHANGE = ("loop.steps", "loop.minutes", "loop.save_minutes", "policy.export", "trackers")
_SERVER = re.compile(r"openai:[^#?]*#")


def check_same_run(stored: Mapping[str, Any], recipe: Recipe, checkpoint: Path) -> None:
    """Raise `ConfigError` with every key in which `recipe` differs from the one that is `stored` in `checkpoint`."""
    try:
        before = _settings(read_config(Recipe, stored))
    except ConfigError as error:
        raise ConfigError(
            f"{checkpoint} was made by another version of this program, with settings that are none now ({error}). "
            "Finish it with that version, or start a new run in another --out"
        ) from None
    now = _settings(recipe)
    changed = [key for key in {**before, **now} if key not in MAY_CHANGE and before.get(key) != now.get(key)]
    if changed:
        differences = "; ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in changed)
        raise ConfigError(
            f"--resume: {checkpoint} was made with another recipe: {differences}. Only {', '.join(MAY_CHANGE)} may "
            "change; leave the recipe out to go on as it was (mmreward train --resume --out FOLDER), or choose another "
            "--out for another run"
        )


def _settings(recipe: Recipe) -> dict[str, Any]:
    """All settings by dotted keys, with the defaults of the algorithm too."""
    algorithm = load_algorithm(recipe)
    values = recipe.model_dump(mode="json")
    if isinstance(algorithm, BaseModel):
        values["algorithm"] = algorithm.model_dump(mode="json")
    return dict(_flat(values, ""))


def _flat(values: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", _SERVER.sub("openai:#", value) if isinstance(value, str) else value
