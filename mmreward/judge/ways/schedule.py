"""Which candidates of a group are compared with which: all pairs, or fewer of them.

    all       each with each: n (n - 1) / 2 comparisons
    ring      each with its neighbours on a ring, `rivals` of them
    random    each draws `rivals` others (and may be drawn by more)
    anchor    one of them with each other: n - 1 comparisons

Candidates are put in an order that their pixels decide, so that what is compared does not depend on the order in which
they came, and random draws depend on the seed and the pixels alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from itertools import combinations

from PIL import Image

__all__ = ["SCHEMES", "image_digest", "schedule"]

SCHEMES = ("all", "ring", "random", "anchor")


def schedule(
    images: Sequence[Image.Image], scheme: str = "all", rivals: int = 2, seed: int = 0
) -> list[tuple[int, int]]:
    """Pairs of indices, each once; `rivals` is for ring (rounded up to an even number) and random."""
    digests = [image_digest(image) for image in images]
    order = sorted(range(len(images)), key=lambda i: digests[i])
    count = len(order)
    if scheme == "ring":
        reach = min((rivals + 1) // 2, count // 2)
        places = {frozenset((i, (i + step) % count)) for step in range(1, reach + 1) for i in range(count)}
    elif scheme == "random":
        draw = random.Random(f"{seed} {' '.join(sorted(digests))}")
        others = {i: [j for j in range(count) if j != i] for i in range(count)}
        places = {frozenset((i, j)) for i in others for j in draw.sample(others[i], min(rivals, count - 1))}
    elif scheme == "anchor":
        places = {frozenset((0, i)) for i in range(1, count)}
    else:
        places = {frozenset(pair) for pair in combinations(range(count), 2)}
    return [(order[min(pair)], order[max(pair)]) for pair in sorted(places, key=sorted)]


def image_digest(image: Image.Image) -> str:
    """A name for the pixels of an image."""
    digest = hashlib.blake2b(f"{image.width} {image.height};".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()
