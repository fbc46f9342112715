"""How far a reward's differentiable score is from its score: on edits of the shapes world, in `overall`.

    python tests/speed/tensor_gap.py --tasks 64 --candidates 4
    python tests/speed/tensor_gap.py --reward clip:tiny

Two kinds of tensors are compared with the PIL images: with the same 256 levels, and between the levels (as a decoder
makes them; the PIL image is what saving it would give).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from PIL import Image

from mmreward import Edit, load_reward
from mmreward.reward import Differentiable
from mmreward.shapes import World

SPLIT, SEED = "validation", 17
AT_ONCE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", default="vlm:tiny")
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=4)
    arguments = parser.parse_args()
    reward = load_reward(arguments.reward)
    if not isinstance(reward, Differentiable) or not reward.is_differentiable:
        parser.error(f"{arguments.reward} takes no tensors")
    world = World(SPLIT, seed=SEED)
    edits = [
        Edit(task.instruction, Image.fromarray(task.source_image), Image.fromarray(one.image))
        for task in world.tasks(arguments.tasks)
        for one in world.candidates(task, arguments.candidates)
    ]
    expected = torch.tensor([score.overall for score in reward.score(edits)], dtype=torch.float64)
    print(f"{len(edits)} edits, {SPLIT} split, images 64 x 64; {arguments.reward}, overall")
    print("| tensors | mean difference | largest difference | pairs of one group in another order |")
    print("|---|---|---|---|")
    for name, between in (("256 levels", False), ("between the levels", True)):
        found = measured(reward, edits, between)
        gap = (found - expected).abs()
        turned = turned_pairs(found.view(arguments.tasks, -1), expected.view(arguments.tasks, -1))
        print(f"| {name} | {gap.nanmean():.5f} | {gap[gap.isfinite()].max():.5f} | {100 * turned:.2f} % |")


@torch.no_grad()
def measured(reward: Differentiable, edits: list[Edit], between: bool) -> torch.Tensor:
    """`overall` by the tensor path."""
    generator = torch.Generator().manual_seed(0)
    told = []
    for start in range(0, len(edits), AT_ONCE):
        some = edits[start : start + AT_ONCE]
        source, edited = (torch.stack([pixels(edit.image(name)) for edit in some]) for name in ("source", "edited"))
        if between:
            noise = (torch.rand(edited.shape, generator=generator) - 0.5) / 255
            edited = (edited + noise).clamp(0, 1)
        told.append(reward.tensor(source, edited, [edit.instruction for edit in some]).double())
    return torch.cat(told)


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def turned_pairs(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Share of the pairs of a row, at least 0.02 apart in `expected`, that `found` orders the other way."""
    wanted, got = (one[:, :, None] - one[:, None] for one in (expected, found))
    clear = wanted > 0.02
    return float((got[clear] <= 0).double().mean())


if __name__ == "__main__":
    main()
