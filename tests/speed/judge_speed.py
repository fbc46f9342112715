"""How fast and how well a judge scores candidates of one source, by how much of what they share is computed once.

    python tests/speed/judge_speed.py                                # the bundled judge: its own words, then edit-1
    python tests/speed/judge_speed.py --model FOLDER --candidates 24 --size 448 --question edit-1
    python tests/speed/judge_speed.py --gpu                          # random 3B and 7B, 448² and 1024², groups of 8, 24
    python tests/speed/judge_speed.py --gpu --shapes toy --sizes 112 --candidates 2 --groups 2      # to try that out

Four ways of asking the same questions in one process, in turns, so that all meet the same machine:

    one by one      one call per question and candidate, each path a row of its own
    plain batches   the same rows in padded batches
    cache reuse     what is shared is read once, its keys and values are kept
    packed          each group in one sequence with a 4-D mask

The bound of a way is the time that the bare modules take for as many tokens: the vision tower for the images that it
looks at, and the language model for its tokens in its batch shapes, causal. No image is opened or resized, no text
tokenised, no mask made and no answer read in it. Ratios and shares are medians over groups of what was measured side by
side. Beside the speed stand the largest difference of a label's log-probability to asking one by one, and, where the
model is trained, the share of pairs of candidates that it orders as the oracle does (pairs as in judge_agreement.py).
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from judge_shapes import SHAPES, new_shape
from judge_ways import Asked, Table, Way, ask_groups, new_groups, new_ways, prompt_lengths
from rich.console import Console
from rich.progress import track

from mmreward.judge.backends.folder import find_model
from mmreward.judge.backends.transformers import DTYPES, TransformersBackend
from mmreward.judge.question import QuestionSet, load_questions


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.gpu:
        _random_models(arguments)
    else:
        _one_model(arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--question", nargs="+", help="question sets; default: the one of the model's card, and edit-1")
    parser.add_argument("--candidates", type=int, nargs="+", help="of one source; default 8, with --gpu 8 and 24")
    parser.add_argument("--sizes", "--size", type=int, nargs="+", help="side of the images in pixels; default 64")
    parser.add_argument(
        "--groups", type=int, help="sources; default 20 for the model's own question set, 3 for others and with --gpu"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=8192, help="how many go through the model at once")
    parser.add_argument("--dtype", choices=sorted(DTYPES))
    parser.add_argument("--gpu", action="store_true", help="random models of published sizes, in bfloat16")
    parser.add_argument("--shapes", nargs="+", default=["3B", "7B"], choices=sorted(SHAPES), help="with --gpu")
    parser.add_argument(
        "--cpu-seconds", action="store_true", help="count this process's CPU time, for a busy machine (--threads 1)"
    )
    return parser.parse_args()


def _one_model(arguments: argparse.Namespace) -> None:
    source = find_model(arguments.model)
    backend = TransformersBackend.load(source, dtype=arguments.dtype, tokens=arguments.tokens)
    own = source.card.get("questions", {}).get("expected")
    for name in arguments.question or dict.fromkeys(filter(None, [own, "edit-1"])):
        for size in arguments.sizes or [None]:
            for candidates in arguments.candidates or [8]:
                asked = load_questions(name), candidates, size, arguments.groups or (20 if name == own else 3)
                _measure(f"{arguments.model}, {name}", backend, *asked, arguments, trained=True)


def _random_models(arguments: argparse.Namespace) -> None:
    dtype = arguments.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
    for shape in arguments.shapes:
        for name in arguments.question or ["edit-1"]:
            questions = load_questions(name)
            texts = [questions.shared, questions.candidate, *questions.questions.values()]
            backend = TransformersBackend(*new_shape(shape, texts, dtype=DTYPES[dtype]), tokens=arguments.tokens)
            for size in arguments.sizes or [448, 1024]:
                for candidates in arguments.candidates or [8, 24]:
                    asked = questions, candidates, size, arguments.groups or 3
                    title = f"{shape} with random weights, {name}, images of {size} x {size}"
                    _measure(title, backend, *asked, arguments, trained=False)
            del backend


def _measure(
    title: str,
    backend: TransformersBackend,
    questions: QuestionSet,
    candidates: int,
    size: int | None,
    count: int,
    arguments: argparse.Namespace,
    trained: bool,
) -> None:
    """Prints one table."""
    groups = new_groups(questions, candidates, count + 1, size)
    model, processor = backend.model, backend.processor
    ways = new_ways(model, processor, questions, groups[0].prompt, arguments.tokens)
    print(f"\n### {title}\n\n{prompt_lengths(model, processor, groups[0].prompt)}")
    print(f"{backend.describe['dtype']}, {_device()}, {torch.get_num_threads()} threads; {count} groups\n", flush=True)
    clock = time.process_time if arguments.cpu_seconds else time.perf_counter
    shown: Sequence[Asked] = track(groups, title, console=Console(stderr=True), transient=True)  # type: ignore[assignment]
    table = ask_groups(ways, backend, list(questions.questions), shown, clock)
    _print(table, ways, candidates, trained)


def _print(table: Table, ways: Sequence[Way], candidates: int, trained: bool) -> None:
    head = ["way", "edits/s", "by one by one", "by plain", "tokens", "images", "bound, edits/s", "share of bound"]
    head += [
        "log difference",
        *(["pairs right"] if trained else []),
        *(["peak GiB"] if torch.cuda.is_available() else []),
    ]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for way in ways:
        took, least = (statistics.median(some[way.name]) for some in (table.seconds, table.bounds))
        row = [way.name, f"{candidates / took:.1f}"]
        row += [f"{table.faster(way.name, other.name):.2f}x" for other in ways[:2]]
        row += [str(way.tokens), str(way.images), f"{candidates / least:.1f}", f"{table.share(way.name):.0%}"]
        row.append(f"{table.gaps[way.name]:.0e}")
        if trained:
            row.append(f"{table.right(way.name):.3f}")
        if torch.cuda.is_available():
            row.append(f"{table.peaks[way.name] / 2**30:.1f}")
        print("| " + " | ".join(row) + " |")


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
