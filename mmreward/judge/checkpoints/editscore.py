"""EditScore: a LoRA on Qwen2.5-VL or Qwen3-VL that reasons and grades from 0 to 25.

X. Luo et al., "EditScore: Unlocking Online RL for Image Editing via High-Fidelity Reward Modeling", 2025. A pass with
seed s + i gives

    overall_i = sqrt( min(success, over_edit) / 25 x min(naturalness, artefacts) / 25 )

and the score is the mean over passes: the published numbers divided by 10, with failures as failures (the package puts
a random number or the middle in their place). Drawn at temperature 0.7, top-p 0.9 and top-k 20, seed 42. Quality is
judged from the edited image alone, as the package's `evaluate` does (its `batch_evaluate` shows both images).

Its words are read from the package `editscore`, which is not run. For Qwen2.5-VL its template announces each image by
"<img1>: "; for Qwen3-VL it is the processor's own.
"""

from __future__ import annotations

from pathlib import Path

from mmreward.judge.checkpoints.grades import GradePairs
from mmreward.judge.checkpoints.texts import Texts

__all__ = ["FAMILIES", "PLACES", "PUBLISHED", "SAMPLING", "editscore_words", "family_of"]

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
PLACES = (
    "vie_prompts.py:_context_no_delimit_reasoning_first",
    "vie_prompts.py:_prompts_0shot_two_image_edit_rule",
    "vie_prompts.py:_prompts_0shot_tie_rule_SC",
    "vie_prompts.py:_prompts_0shot_rule_PQ",
)
PUBLISHED = "355cffe1ee7414a13b34e4e5ba99180c3667ce8cc18b3a2949047c87f340b498"
"""Digest of the texts at `PLACES` in editscore 0.2."""

SAMPLING = {"temperature": "0.7", "top_p": "0.9", "top_k": "20", "seed": "42", "max_new_tokens": "512"}


def family_of(base: str) -> str:
    """The family of a base model by its name, for a model behind a server. Raises ValueError where it does not say."""
    name = Path(base).name.lower()
    for family, sign in zip(FAMILIES, ("qwen2.5-vl", "qwen3-vl"), strict=True):
        if sign in name:
            return family
    raise ValueError(
        f"EditScore is asked otherwise on Qwen2.5-VL than on Qwen3-VL, and {base or 'its name'!r} does not tell which "
        "one the server has; add ?base= with the model that it was trained on, such as Qwen/Qwen2.5-VL-7B-Instruct"
    )


def editscore_words(texts: Texts, family: str, pixels: int | None = None) -> GradePairs:
    """The questions for a model of this family: context, rules, and rules whose scale of 10 becomes one of 25.

    Raises ValueError for another family, and for texts that have no place for the instruction.
    """
    if family not in FAMILIES:
        raise ValueError(f"EditScore is a LoRA on {' or '.join(FAMILIES)}, the base model is a {family}")
    context, both, success, quality = texts.values
    if "<instruction>" not in success:
        raise ValueError("the prompt _prompts_0shot_tie_rule_SC must hold <instruction>, where the instruction goes")
    together = "\n".join([context, both, success.replace("10", "25")])
    alone = "\n".join([context, quality.replace("10", "25")])
    return GradePairs(texts.about, together, alone, "<instruction>", numbered=family == "qwen2_5_vl", pixels=pixels)
