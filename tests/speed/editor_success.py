"""How good is an editor in the shapes world? Reconstruction ceiling, success and mean oracle overall, paired noise.

python tests/speed/editor_success.py                                        # the bundled editor, validation
python tests/speed/editor_success.py runs/grpo/editor --against tiny        # and the paired difference
python tests/speed/editor_success.py --split test                           # once, for the table
"""

import argparse
import time

import numpy as np

from editing.editors import load_editor
from editing.fit.editor import KINDS
from editing.fit.success import EditorSuccess, editor_success
from editing.fit.vae import reconstruction_success
from mmreward.shapes import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("editor", nargs="?", default="tiny", help="tiny, tiny-ip2p, or a folder")
    parser.add_argument("--against", help="another editor, for the paired difference")
    parser.add_argument("--split", default="validation", choices=["validation", "test"])
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--kinds", default=",".join(KINDS))
    asked = parser.parse_args()

    world = World(asked.split, kinds=tuple(asked.kinds.split(",")))
    tasks = [world.task(index) for index in range(asked.count)]
    editor = load_editor(asked.editor)
    ceiling = reconstruction_success(editor.pipeline.vae, world, asked.count)
    print(f"{asked.editor}: {asked.count} scenes of the {asked.split} split")
    print(f"  reconstruction ceiling {ceiling:.3f}")
    start = time.perf_counter()
    measured = editor_success(editor, tasks, asked.steps)
    print(f"  {measured}")
    print(f"  {(time.perf_counter() - start) / asked.count * 1000:.0f} ms an edit, reading included")
    if asked.against:
        other = editor_success(load_editor(asked.against), tasks, asked.steps)
        print(f"{asked.against}:\n  {other}")
        difference(measured, other)


def difference(one: EditorSuccess, other: EditorSuccess) -> None:
    """Mean paired differences with their standard errors."""
    for name in ("success", "overall"):
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(one.truths, other.truths)]
        change = np.array([float(a) - float(b) for a, b in pairs])
        change = change[~np.isnan(change)]
        print(f"  difference in {name}: {change.mean():+.3f} ± {change.std() / max(len(change), 1) ** 0.5:.3f}")


if __name__ == "__main__":
    main()
