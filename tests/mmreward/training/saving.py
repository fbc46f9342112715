"""Saves that are cut short, for `test_checkpoint.py`:

python saving.py killed FOLDER     a child for each operation on files, killed (-9) just before it
python saving.py full FOLDER       files may not grow beyond 8 KB
"""

import itertools
import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch

from mmreward.training import CheckpointError, save_checkpoint

_ON_FILES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.scandir"}


def table(step: int, size: int = 50):
    return {"weights": {"w": torch.full((size,), float(step))}, "more": {"v": torch.full((3,), float(step))}}


def die_before(operation: int) -> None:
    seen = itertools.count()

    def count(event, details):
        if event in _ON_FILES and next(seen) == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def killed(folder: Path) -> None:
    """Prints the number of operations: the first child that came through had none left to die at."""
    for operation in itertools.count():
        place = folder / str(operation)
        save_checkpoint(place, 1, table(1), {"value": 1})
        child = os.fork()
        if not child:
            die_before(operation)
            save_checkpoint(place, 2, table(2), {"value": 2})
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            print(json.dumps(operation))
            return


def full(folder: Path) -> None:
    """Prints what was said."""
    save_checkpoint(folder, 1, table(1), {"value": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    try:
        save_checkpoint(folder, 2, table(2, size=100_000), {"value": 2})
    except CheckpointError as error:
        print(json.dumps(str(error)))


if __name__ == "__main__":
    {"killed": killed, "full": full}[sys.argv[1]](Path(sys.argv[2]))
