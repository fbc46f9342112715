"""How a model came to be, for its card: the recipes that ran, and not a command that might have been."""

from __future__ import annotations

__all__ = ["history", "history_text"]

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel


def history(recipe: BaseModel, before: Mapping[str, Any]) -> dict[str, Any]:
    """`recipes`, oldest first: those on the card of the model that this run went on from (`before`, empty for fresh
    weights) and `recipe` with every value as it was used. `command` is carried over from cards that have no recipes.
    """
    earlier = {"command": before["command"]} if "command" in before else {}
    return earlier | {"recipes": [*before.get("recipes", []), recipe.model_dump(mode="json")]}


def history_text(card: Mapping[str, Any]) -> str:
    """The same for people, in Markdown."""
    recipes = card.get("recipes", [])
    parts = []
    if "command" in card:
        parts.append(f"First trained by `{card['command']}`." if recipes else f"Trained by `{card['command']}`.")
    if recipes:
        files = "this recipe" if len(recipes) == 1 else "these recipes, one after the other"
        parts.append(f"{'Then' if parts else 'Trained'} by {files} (`mmreward train FILE.yaml --out RUN`):")
    blocks = [f"```yaml\n{yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)}```" for recipe in recipes]
    return "\n\n".join([" ".join(parts), *blocks])
