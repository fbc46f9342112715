"""A trained judge as a folder: model, processor, `mmreward.json`, and the card made from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmreward.atomic import save_atomic
from mmreward.fit.card import history_text
from mmreward.shapes import WORLD_VERSION
from mmreward.strict_json import dumps

__all__ = ["about", "save_judge", "write_card"]


def about(
    name: str,
    questions: Mapping[str, str],
    data: str,
    history: Mapping[str, Any],
    minutes: float,
    numbers: Mapping[str, Any],
) -> dict[str, Any]:
    """What `mmreward.json` says about a judge of the shapes world; `questions`: the question set of each way that it
    was taught, `history`: the recipes that ran (`mmreward.fit.card`).
    """
    return {
        "name": name,
        "family": "qwen2.5-vl",
        "taught_by": "oracle",
        "domain": "shapes",
        "world_version": WORLD_VERSION,
        "questions": dict(questions),
        "data": data,
        **history,
        "minutes": round(minutes, 1),
        "numbers": dict(numbers),
    }


def save_judge(model: Any, processor: Any, card: Mapping[str, Any], folder: Path) -> None:
    """Write a folder that the Auto classes of transformers load (bfloat16, safetensors), whole or not at all: an older
    one is replaced only by a finished one.
    """

    def write(partial: Path) -> None:
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(partial)
        processor.save_pretrained(partial)
        write_card(partial, card)
        for file in partial.iterdir():
            file.chmod(0o644)

    save_atomic(folder, write)


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write `mmreward.json` and the README that says the same to people."""
    (folder / "mmreward.json").write_text(dumps(card, indent=1) + "\n", encoding="utf-8")
    numbers = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in card["numbers"].items())
    ways = ", ".join(f"{way} ({name})" for way, name in card["questions"].items())
    reward = "vlm:tiny" if card["name"] == "tiny-judge" else "vlm:FOLDER"
    text = f"""\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# {card["name"]}: a judge for edits in the shapes world

A `Qwen2_5_VLForConditionalGeneration` of a few million parameters, trained from nothing. It looks at an image
before and after an edit and answers, with a digit from 0 to 5, how well the instruction was followed, how well
everything else was preserved, and how clean the image is. Where it has learned to, it also checks short statements
(No, Yes) and says which of two edits is better (A, B). It is distilled from an exact oracle and knows nothing but
the shapes world: on a photo its answers mean nothing, and `{reward}` refuses them (`not_applicable`).

    mmreward score edits.jsonl --reward {reward}

- Asked in these ways, each with its question set: {ways}.
- Data: {card["data"]}
- World: {card["world_version"]}
- Family: {card.get("family", "not said")}; taught by: {card.get("taught_by", "not said")}
- Trained for {card["minutes"]} minutes on a CPU core that it shared
- Weights are bfloat16; load them as float32.

{history_text(card)}

| measured on held-out edits | |
|---|---|
{numbers}
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
