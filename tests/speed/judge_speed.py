"""How fast a judge scores candidates of one source, by how much of what they share is computed once.

    python tests/speed/judge_speed.py
    python tests/speed/judge_speed.py --model FOLDER --candidates 24 --size 448 --question edit-1 --threads 2

Four ways of asking the same questions, in one process, in turns (so that all meet the same machine); medians:

    one by one      one call per question and candidate, each path a row of its own
    plain batches   the same rows in padded batches
    cached          shared prefixes by cache reuse
    packed          each group in one sequence with a 4-D mask

The bound of a way is the time that the bare modules take for as many tokens: the vision tower for the images that it
looks at, and the language model for its tokens in its batch shape, causal, without a mask, without reading a prompt.
The largest difference of a label's probability to one by one stands beside the speed.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image

from mmreward.judge.backends.folder import find_model
from mmreward.judge.backends.transformers import TransformersBackend
from mmreward.judge.backends.tree import images_of
from mmreward.judge.prompt import Prompt
from mmreward.judge.question import QuestionSet, load_questions
from mmreward.shapes import World


@dataclass(frozen=True)
class Way:
    """`ask` answers a group; `rows` x `length` tokens go through the language model, `images` through the tower."""

    name: str
    ask: Callable[[Prompt], list[list[float]]]
    rows: int
    length: int
    images: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--question", help="question set; default: the one that the model's card names")
    parser.add_argument("--size", type=int, help="side of the images; default: the shapes world's 64")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    source = find_model(arguments.model)
    questions = load_questions(arguments.question or source.card.get("question", "edit-1"))
    layouts = ("plain", "cached", "packed")
    backends = {layout: TransformersBackend.load(source, layout=layout, dtype=arguments.dtype) for layout in layouts}
    prompts = new_prompts(questions, arguments.candidates, arguments.repeats + 1, arguments.size)
    ways = new_ways(backends, questions, prompts[0])
    told = {way.name: way.ask(prompts[0]) for way in ways}  # the first call builds kernels and caches
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    bounds: dict[str, list[float]] = {way.name: [] for way in ways}
    for prompt in prompts[1:]:  # each group is new, so that no image was seen before
        for way in ways:
            seconds[way.name].append(_seconds(partial(way.ask, prompt)))
            bounds[way.name].append(bare(backends["packed"], way, prompt))
    describe(backends["packed"], prompts[0])
    print("\n| way | edits/s | tokens x rows | images | bound, edits/s | share of the bound | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for way in ways:
        took, least = statistics.median(seconds[way.name]), statistics.median(bounds[way.name])
        gap = max(abs(a - b) for x, y in zip(told[way.name], told["one by one"]) for a, b in zip(x, y))
        print(
            f"| {way.name} | {arguments.candidates / took:.1f} | {way.length} x {way.rows} | {way.images} "
            f"| {arguments.candidates / least:.1f} | {least / took:.0%} | {gap:.1e} |"
        )


def new_prompts(questions: QuestionSet, candidates: int, count: int, size: int | None) -> list[Prompt]:
    world = World("test", seed=5)
    prompts = []
    for task in world.tasks(count):
        images = [task.source_image, *(c.image for c in world.candidates(task, candidates))]
        source, *edited = [_image(Image.fromarray(image), size) for image in images]
        prompts.append(questions.prompt(task.instruction, source, edited))
    return prompts


def _image(image: Image.Image, size: int | None) -> Image.Image:
    return image.resize((size, size)) if size else image


def new_ways(backends: dict[str, TransformersBackend], questions: QuestionSet, prompt: Prompt) -> list[Way]:
    def answers(backend: TransformersBackend, prompts: Sequence[Prompt]) -> list[list[float]]:
        told = backend.probabilities(prompts, questions.labels)
        return [list(answer.probabilities) for row in told for answer in row]

    plain, shared = backends["plain"], backends["packed"].shared
    assert shared is not None
    leaves, images = prompt.leaves, len(list(images_of(prompt)))
    (tree,) = shared._read([prompt])
    longest, whole = max(leaf.count for leaf in tree.ends()), tree.size
    return [
        Way("one by one", lambda p: [answers(plain, [Prompt(path)])[0] for path in p.paths()], leaves, longest, 0),
        Way("plain batches", lambda p: answers(plain, [p]), leaves, longest, 2 * leaves),
        Way("cached", lambda p: answers(backends["cached"], [p]), 1, whole, images),
        Way("packed", lambda p: answers(backends["packed"], [p]), 1, whole, images),
    ]


@torch.inference_mode()
def bare(backend: TransformersBackend, way: Way, prompt: Prompt) -> float:
    """Seconds of the modules alone for a way's tokens and images; one by one: for each row and its two images."""
    shared = backend.shared
    assert shared is not None
    apart = way.name == "one by one"
    found = shared.vision.family.prepare(list(images_of(prompt))[: 2 if apart else None])
    seen = [found[i % len(found)] for i in range(2 if apart else way.images)]
    ids = torch.randint(0, 100, (1 if apart else way.rows, way.length), device=backend.model.device)
    embeds, decoder = backend.model.get_input_embeddings()(ids), backend.model.get_decoder()

    def run() -> None:
        shared.vision._features(seen)
        decoder(inputs_embeds=embeds, use_cache=False)

    return _seconds(run) * (way.rows if apart else 1)


def describe(backend: TransformersBackend, prompt: Prompt) -> None:
    shared = backend.shared
    assert shared is not None
    (tree,) = shared._read([prompt])
    parts = [len(tree.ids), len(tree.children[0].ids), *(len(leaf.ids) for leaf in tree.children[0].children)]
    picture = next(iter(shared.vision.look(list(images_of(prompt))[:1]).values()))
    print(
        f"{len(tree.children)} candidates of one source, {len(parts) - 2} questions each; tokens: {parts[0]} shared, "
        f"{parts[1]} a candidate, {', '.join(map(str, parts[2:]))} a question, {len(picture.prepared.ids)} of these an "
        f"image; {backend.describe['dtype']}, {backend.describe['device']}, {torch.get_num_threads()} threads"
    )


def _seconds(run: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
