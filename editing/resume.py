"""Is it the same run? A checkpoint goes on with the recipe that it was made with.

What says how long a run is, when and in what form it is saved, and where its curves go may change; so may the address
of a server whose model stays. Everything else would make another run of it, which log and report would tell as one.
"""

__all__ = ["check_same_run"]

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from editing.recipe import Recipe, load_algorithm
from mmreward.config import ConfigError, read_config
from mmreward.training.same_run import LENGTH_AND_SAVING, differences

MAY_CHANGE = (*LENGTH_AND_SAVING, "policy.export", "trackers")
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
    if changed := differences(before, _settings(recipe), MAY_CHANGE):
        raise ConfigError(
            f"--resume: {checkpoint} was made with another recipe: {'; '.join(changed)}. Only {', '.join(MAY_CHANGE)} "
            "may change; leave the recipe out to go on as it was (mmreward train --resume --out FOLDER), or choose "
            "another --out for another run"
        )


def _settings(recipe: Recipe) -> dict[str, Any]:
    """All settings, with the defaults of the algorithm too, and servers without their addresses."""
    algorithm = load_algorithm(recipe)
    values = recipe.model_dump(mode="json")
    if isinstance(algorithm, BaseModel):
        values["algorithm"] = algorithm.model_dump(mode="json")
    values["roles"] = _without_addresses(values["roles"])
    return values


def _without_addresses(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_addresses(inner) for key, inner in value.items()}
    return _SERVER.sub("openai:#", value) if isinstance(value, str) else value
