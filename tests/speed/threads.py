"""How threads wait for each other, and what that costs: edits a second of `vlm:tiny`, alone and beside a busy process.

    python tests/speed/threads.py --rounds 5

OpenMP's threads spin at the end of a parallel region by default. Where another process needs the core, the spinning
ones keep it from the one that they wait for. Each measurement is a process of its own (the libraries read the setting
when they are loaded); the settings take turns, so that what else the machine does falls on all of them.
"""

__all__ = ["main"]

import argparse
import os
import statistics
import subprocess
import sys

SETTINGS: dict[str, dict[str, str]] = {
    "spinning": {"OMP_WAIT_POLICY": "ACTIVE"},
    "torch's default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")

BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
MEASURE = """
import sys, time, warnings
warnings.simplefilter("ignore")
from mmreward import load_reward
from mmreward.assets import example_edits
from mmreward.batch import read_rows
seconds, reward = float(sys.argv[1]), load_reward("vlm:tiny")
edits = [row.edit() for row in read_rows(example_edits())]
reward.score(edits)
began, count = time.perf_counter(), 0
while time.perf_counter() - began < seconds:
    reward.score(edits)
    count += len(edits)
print(count / (time.perf_counter() - began))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    options = parser.parse_args()
    for beside in ("nothing", "one busy process"):
        busy = subprocess.Popen([sys.executable, "-c", BUSY]) if beside != "nothing" else None
        try:
            rates: dict[str, list[float]] = {name: [] for name in SETTINGS}
            for _ in range(options.rounds):
                for name, environment in SETTINGS.items():
                    rates[name].append(edits_a_second(environment, options.seconds))
        finally:
            if busy:
                busy.kill()
        print(f"beside {beside}, {os.cpu_count()} cores, edits a second (median, least to most):")
        for name, values in rates.items():
            print(f"  {name:16} {statistics.median(values):7.1f}   {min(values):.1f} to {max(values):.1f}")


def edits_a_second(environment: dict[str, str], seconds: float) -> float:
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", MEASURE, str(seconds)]
    done = subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
