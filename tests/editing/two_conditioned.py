"""Short runs of `conditioned` in one process and in two (gloo). Started by `test_fit_conditioned.py`:

    python two_conditioned.py EDITOR FOLDER

Leaves a folder for each run. Everything is imported once, before the processes part.
"""

import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch._dynamo  # optimisers import it at their first step, which takes each process seconds
import torch.distributed as dist
import torch.distributed.fsdp

from editing.fit import conditioned
from mmreward.training import Interrupted

EDITOR, FOLDER = sys.argv[1], Path(sys.argv[2])
LOOP = {"steps": 3, "lr": 1e-2, "warmup": 0, "log_every": 1, "ema": 0.5, "autocast": "no"}


def train(name: str, resume: bool = False, **policy) -> None:
    recipe = {
        "editor": EDITOR,
        "data": {"reward": "oracle", "triplets": 8, "flawed": 0.5, "seed": 1},
        "method": {"name": "conditioned", "no_feedback": 1.0},
        "policy": {"weights": "lora", "rank": 2, "alpha": 4, **policy},
        "loop": {**LOOP, "gradient_checkpointing": bool(policy)},
        "batch": 4,
        "checked": 2,
        "checked_minutes": 60,
        "cache": str(FOLDER / f"{name}.safetensors"),
    }
    conditioned.run(recipe, FOLDER / name, resume)


def one_process() -> None:
    train("one")


def two_processes(rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    train("two")
    train("sharded", shard=True)
    whole = conditioned.fit

    def stopped(*arguments, **options):
        """Stops after a step, as Ctrl-C in one of the processes does."""
        draw = arguments[1]

        def batch_at(step):
            if rank == 1 and step == 2:  # asked for while the one before it is taken
                os.kill(os.getpid(), 2)
            return draw(step)

        return whole(arguments[0], batch_at, *arguments[2:], **options)

    conditioned.fit = stopped
    try:
        train("stopped", shard=True)
    except Interrupted:
        (FOLDER / f"stopped-{rank}").touch()
    conditioned.fit = whole
    train("stopped", resume=True, shard=True)
    dist.destroy_process_group()


def main() -> None:
    torch.set_num_threads(1)
    conditioned.Accelerator.end_training = lambda accelerator: None  # or the processes would part after the first run
    os.environ["ACCELERATE_USE_CPU"] = "true"
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
