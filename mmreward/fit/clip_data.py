"""What the bundled CLIP is taught: groups of near scenes with their captions, and the tokenizer for their words.

A batch holds several groups. A group is one source scene, candidate edits of it (right and flawed) and scenes one or
two changes away from it: only single attributes tell its members apart, so that the contrastive loss cannot be lowered
by recognising the source. Every image has its own caption, in one of several wordings; the group has one instruction
and, for each image, whether it does what the instruction asks.
"""

from __future__ import annotations

__all__ = ["Batch", "build_tokenizer", "make_batch", "near_scenes", "roughen"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmreward.shapes import KINDS, Reading, Scene, World, background, grid, render, truth
from mmreward.shapes.language import apply
from mmreward.shapes.sample import draw_change, jittered, pick
from mmreward.shapes.scene import KEPT_OUT_PAIRS
from mmreward.shapes.world import Task, split_of

if TYPE_CHECKING:
    from torch import Tensor

_CANDIDATES = 9  # of each group, the true target among them; one more is the source, the rest are near scenes
_WORDINGS = 12  # caption variants: 3 wordings, shapes listed from any of them


@dataclass(frozen=True)
class Batch:
    """G groups of K images, B = G K.

    images: uint8 [B, 3, H, W]. captions: int64 [B, L]. instructions: int64 [G, L]. follows: bool [B], whether an image
    does all that its group's instruction asks. scenes: int64 [B], equal numbers for equal scenes.
    cells: int64 [B, 9, 3] and ground: int64 [B, 2], what is where (`mmreward.shapes.grid`, `background`).
    """

    images: Tensor
    captions: Tensor
    instructions: Tensor
    follows: Tensor
    scenes: Tensor
    cells: Tensor
    ground: Tensor


def make_batch(
    world: World, tokenize: Callable[[list[str]], Tensor], step: int, groups: int, members: int, rough: float
) -> Batch:
    """Batch number `step` of a run: groups from the tasks step * groups onwards. `rough`: share of roughened images."""
    import torch

    rng = np.random.default_rng([world.seed, step, 77])
    images: list[np.ndarray] = []
    scenes: list[Scene] = []
    follows: list[bool] = []
    instructions: list[str] = []
    for task in world.tasks(groups, start=step * groups):
        candidates = world.candidates(task, min(_CANDIDATES, members - 1))
        near = near_scenes(task, members - 1 - len(candidates), world.split, rng)
        members_scenes = [task.source, *[c.scene for c in candidates], *near]
        images += [task.source_image, *[c.image for c in candidates], *[render(s, world.size) for s in near]]
        scenes += members_scenes
        follows += [truth(task.source, task.changes, Reading(s, 0.0)).following == 1 for s in members_scenes]
        instructions.append(task.instruction)
    images = [roughen(image, rng) if rng.random() < rough else image for image in images]
    names = {scene.canonical: number for number, scene in enumerate(scenes)}
    captions = [scene.caption(int(rng.integers(_WORDINGS))) for scene in scenes]
    return Batch(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        captions=tokenize(captions),
        instructions=tokenize(instructions),
        follows=torch.tensor(follows),
        scenes=torch.tensor([names[scene.canonical] for scene in scenes]),
        cells=torch.from_numpy(np.stack([grid(scene) for scene in scenes])),
        ground=torch.tensor([background(scene) for scene in scenes]),
    )


def near_scenes(task: Task, count: int, split: str, rng: np.random.Generator) -> list[Scene]:
    """Scenes of `split` one change away from a task's source or target, without kept-out pairs."""
    found: list[Scene] = []
    while len(found) < count:
        scene = task.source if rng.random() < 0.6 else task.target
        change = draw_change(pick(KINDS[:-1], rng), scene, rng)
        if change is None:
            continue
        scene = jittered(apply(scene, (change,)), rng)
        pairs = {shape.pair for shape in scene.shapes}
        if len(pairs) == len(scene.shapes) <= 5 and not pairs & KEPT_OUT_PAIRS and split_of(scene) == split:
            found.append(scene)
    return found


def roughen(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A slightly damaged image, as editors and their decoders give them: soft, noisy, or of another contrast."""
    from PIL import Image, ImageFilter

    kind = rng.integers(3)
    if kind == 0:
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2))))
    if kind == 1:
        changed = image + rng.normal(0, 255 * rng.uniform(0.01, 0.06), image.shape)
    else:
        changed = 128 + (image - 128.0) * rng.uniform(0.85, 1.15) + rng.uniform(-12, 12)
    return np.clip(changed + 0.5, 0, 255).astype(np.uint8)


def build_tokenizer(seed: int = 0, samples: int = 1000) -> Any:
    """A word-level tokenizer for the captions and instructions of the shapes world, as a transformers fast tokenizer.

    Lower case; words and punctuation are tokens; an unknown word is `<unk>`; text that spells a special token is split
    like any other text.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    splitter = pre_tokenizers.Whitespace()
    words: set[str] = set()
    for task in World("train", seed=seed, kept_out="include").tasks(samples):
        texts = [task.instruction, *[task.target.caption(variant) for variant in range(3)]]
        words |= {word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower())}
    specials = ["<pad>", "<unk>", "<eos>"]
    vocabulary = {word: number for number, word in enumerate([*specials, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
