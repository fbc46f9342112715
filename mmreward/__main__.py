"""The command line `mmreward …`, also as `python -m mmreward` and `accelerate launch -m mmreward …`.

The one file here that imports `app`. Projects have packages named `app` and `editing` too, on their path or loaded
already: the folder that holds this package comes first, and what else was loaded under these names is left out. What
starts further processes hands them this path.
"""

__all__ = ["main"]

import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path

_SPINNING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What a user sets to say how threads wait: OpenMP's own name, and those of GNU's and of LLVM's (and Intel's)."""


def main() -> None:
    """Entry point of the console script: exit codes are those of `app.cli.main`, 130 after Ctrl-C."""
    try:
        _find_own_packages()
        _wait_passively()
        if not sys.warnoptions:  # what libraries say to those who call them, which is us: the tests fail with it
            warnings.filterwarnings("ignore", category=FutureWarning)
        from app.cli import main as run

        run()
    except KeyboardInterrupt:  # while the above were imported
        print("mmreward: stopped", file=sys.stderr)
        _leave(130)
    except BrokenPipeError:  # whoever read the output has had enough of it: `| head`
        _leave(0)
    except SystemExit as stopped:
        if stopped.code == 130:
            _leave(130)
        raise


def _find_own_packages() -> None:
    folder = Path(__file__).absolute().parent.parent
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
    for package in ("app", "editing"):
        loaded = getattr(sys.modules.get(package), "__path__", [])
        if package in sys.modules and os.path.realpath(folder / package) not in map(os.path.realpath, loaded):
            for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
                del sys.modules[name]


def _wait_passively() -> None:
    """Threads that wait for others of a parallel region sleep, and do not spin: beside one other busy process spinning
    makes small models many times slower (`tests/speed/threads.py`). The libraries that torch ships read this once, when
    they are loaded.
    """
    if not any(name in os.environ for name in _SPINNING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _leave(code: int) -> None:
    """End now. Threads that still compile, or wait for a judge, would keep the interpreter for as long as they take."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
