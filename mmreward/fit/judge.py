r"""Recipe task "judge": train the tiny judge in the shapes world, from nothing or from given weights.

    mmreward train tiny-judge --out runs/judge
    mmreward train tiny-judge --out runs/judge2 --minutes 20 --set start=tiny-judge --set look_steps=0 \
        --set 'extra=[outputs]'    # outputs of an editor, as `mmreward edit` writes them

The folder given by --out then holds `model`, which `vlm:runs/judge/model` loads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from mmreward.fit.judge_model import ModelConfig
from mmreward.strict_json import dumps
from mmreward.training import LoopConfig, read_config

__all__ = ["JudgeRecipe", "run"]


class JudgeRecipe(BaseModel, extra="forbid", frozen=True):
    """A run. `name`: of the finished model. `start`: a model folder or the name of a bundled model to go on from,
    nothing for fresh weights. `questions`, `checklist`, `pairwise`: the question sets that it learns to answer.
    `extra`: folders of editor outputs that `mmreward edit` wrote, `share` of the groups; `smeared`: share of the other
    candidates that are smeared as an editor would. `look_steps` of `look_groups` groups come first and ask no
    questions. `compiled`: fuse the forward pass with torch.compile (needs a C++ compiler).
    """

    task: str = "judge"
    name: str = "tiny-judge"
    loop: LoopConfig
    model: ModelConfig = ModelConfig()
    start: str | None = None
    questions: str = "shapes-1"
    checklist: str | None = None
    pairwise: str | None = None
    groups: int = Field(default=16, ge=1)
    candidates: int = Field(default=8, ge=2)
    text_length: int = Field(default=28, ge=8)
    look_steps: int = Field(default=0, ge=0)
    look_groups: int = Field(default=64, ge=1)
    dense_steps: int = Field(default=4000, ge=1)
    extra: list[str] = []
    share: float = Field(default=0.3, ge=0, le=1)
    smeared: float = Field(default=0.0, ge=0, le=1)
    first_task: int = Field(default=0, ge=0)
    check_groups: int = Field(default=80, ge=0)
    check_minutes: float = Field(default=4.0, gt=0)
    compiled: bool = True


def run(recipe: dict[str, Any], folder: Path, resume: bool) -> None:
    """Train by a recipe; checkpoints, log and the finished model go to `folder`."""
    config = read_config(JudgeRecipe, recipe)
    from mmreward.fit.judge_run import train

    result = train(config, folder, resume)
    print(dumps(result, indent=1))
