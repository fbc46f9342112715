"""Runs of the trainer on a small editor, in one process and in two (gloo). Started by `test_processes.py`:

    python two_processes.py EDITOR FOLDER

Leaves a folder for each run, and what became of it in each process, in `outcome-RANK.jsonl`, once for each time it was
started. Everything is imported once, before the processes part.
"""

import json
import os
import signal
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch._dynamo  # optimisers import it at their first step, which takes each process seconds
import torch.distributed as dist
import torch.distributed.fsdp
from accelerate import Accelerator
from PIL import Image, ImageStat

from editing import trainer as trainer_module
from editing.data import Task
from editing.editors import load_editor
from editing.processes import Processes
from editing.recipe import Recipe
from editing.roles import Roles
from editing.trainer import Trainer
from mmreward.config import ConfigError
from mmreward.reward import Reward
from mmreward.score import Score
from mmreward.training import Interrupted, TrainingError

TIME_OUT = 8.0
EDITOR, FOLDER = sys.argv[1], Path(sys.argv[2])
ALL_WEIGHTS = {
    "rollout": {"groups": 3, "members": 4, "steps": 3, "window": 2},
    "algorithm": {"name": "grpo", "clip": 0.1, "kl": 0.1},
    "policy": {"weights": "full", "ema": 0.5},
}
LORA = {
    "rollout": {"groups": 2, "members": 4, "steps": 3, "window": 0},
    "algorithm": {"name": "nft", "kl": 0.1, "levels": 1},
    "policy": {"weights": "lora", "rank": 2, "alpha": 4, "ema": 0.5},
}


def recipe(base: dict, **policy) -> Recipe:
    steps = 3 if base is ALL_WEIGHTS else 2
    settings = {
        "editor": EDITOR,
        "roles": {"reward": "pixels", "monitor": "oracle"},
        "advantage": {"deviation": "global", "floor": 1e-5},
        "loop": {"steps": steps, "lr": 1e-3, "warmup": 0, "autocast": "no", "micro_batch": 3, "updates": 2},
        "evaluation": {"every": 2, "monitor_tasks": 3, "final_tasks": 3},
    }
    return Recipe.model_validate({**settings, **base, "policy": {**base["policy"], **policy}})


class Redness(Reward):
    """The mean of the red channel; `before(calls)` is called before each scoring."""

    name, dims = "redness", ("instruction_following",)

    def __init__(self, before=lambda calls: None):
        self.before, self.calls = before, 0

    def score(self, edits):
        self.calls += 1
        self.before(self.calls)
        return [Score(ImageStat.Stat(edit.image("edited")).mean[0] / 255) for edit in edits]


class Squares:
    def task(self, index):
        source = Image.new("RGB", (64, 64), (40 * index % 256, 90, 120))
        return Task(f"square-{index}", source, "make the circle red", target=source)


def train(name: str, settings: Recipe, before=lambda calls: None, resume: bool = False) -> None:
    processes = Processes()
    roles = Roles(Redness(before), Redness(), Redness() if "lora" in name else None)
    outcome = {}
    try:
        with processes.together():
            editor = load_editor(EDITOR)
            accelerator = Accelerator(cpu=True)
            trainer = Trainer(settings, editor, roles, Squares(), FOLDER / name, accelerator, processes=processes)
            trainer.fit(resume)
            if "lora" in name:
                outcome["after"] = trainer.finish().after.overall
    except (Interrupted, TrainingError, ConfigError, ArithmeticError) as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
    (FOLDER / name).mkdir(exist_ok=True)
    with (FOLDER / name / f"outcome-{processes.rank}.jsonl").open("a") as stream:
        stream.write(json.dumps(outcome) + "\n")


def one_process() -> None:
    train("one", recipe(ALL_WEIGHTS))
    train("one-lora", recipe(LORA))


def two_processes(rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=TIME_OUT))
    second, waits = rank == 1, FOLDER / "waits"

    def slow(calls):
        if calls == 1 and not second:
            waits.touch()
        elif calls == 1:  # from when the other one has come as far, for that is to wait for longer than the time-out
            end = time.monotonic() + 120
            while not waits.exists() and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(TIME_OUT + 4)

    def stop(calls):
        if second and calls == 3:  # the first iteration takes two, for the repeat noise
            os.kill(os.getpid(), signal.SIGINT)

    def break_down(calls):
        if second:
            raise ZeroDivisionError("the judge is broken")

    train("two", recipe(ALL_WEIGHTS), slow)
    train("stopped", recipe(ALL_WEIGHTS), stop)
    train("stopped", recipe(ALL_WEIGHTS), resume=True)
    train("broken", recipe(ALL_WEIGHTS), break_down)
    train("two-lora", recipe(LORA))
    train("sharded-lora", recipe(LORA, shard=True))
    train("uneven", recipe({**LORA, "rollout": {**LORA["rollout"], "groups": 3}}, shard=True))
    dist.destroy_process_group()


def main() -> None:
    torch.set_num_threads(1)
    trainer_module.load_tasks = lambda config: Squares()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    works = [one_process, lambda: two_processes(0, store.port), lambda: two_processes(1, store.port)]
    children = [fork(work) for work in works]
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))


def fork(work) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
