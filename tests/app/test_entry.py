"""`mmreward` in a project that has packages of the same names as ours, and threads that do not spin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = "from mmreward.__main__ import main; main()"
"""What the installed console script does."""
LOADED = "import app.settings, editing; " + SCRIPT
"""A project whose packages are loaded before, as a `sitecustomize` may do."""
WAY = {"module": ["-m", "mmreward"], "script": ["-c", SCRIPT], "loaded": ["-c", LOADED]}


@pytest.fixture
def project(tmp_path):
    """A web project: `app` with a `cli` of its own, and `editing`."""
    for name in ("app", "editing"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "app" / "cli.py").write_text("raise SystemExit('this is the cli of the project')\n")
    (tmp_path / "app" / "settings.py").write_text("")
    return tmp_path


def run(project: Path, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(project), str(ROOT)])
    inherited = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env={**inherited, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.parametrize("way", WAY)
@pytest.mark.parametrize("arguments", [["--help"], ["score", "--reward", "pixels"], ["train", "--help"]])
def test_a_project_with_the_same_names(way, arguments, project):
    done = run(project, [*WAY[way], *arguments])
    assert done.returncode == 0 and ("mmreward" in done.stdout or "24 ok" in done.stdout), done.stderr


def test_processes_that_it_starts_find_the_same_packages(project):
    """As torch's compile workers, and what is started with the method `spawn`, are."""
    (project / "start.py").write_text(
        "import multiprocessing, sys\n"
        "from mmreward.__main__ import _find_own_packages\n"
        "def look(_):\n    import app.cli\n    return app.cli.__file__\n"
        "if __name__ == '__main__':\n"
        "    _find_own_packages()\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n        print(pool.map(look, [0])[0])\n"
    )
    done = run(project, ["start.py"])
    assert done.stdout.strip() == str(ROOT / "app" / "cli.py"), done.stderr


def test_a_launcher_of_several_processes(project):
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "-m", "mmreward"]
    done = run(project, [*launch, "train", "grpo-tiny", "--help"])
    assert done.returncode == 0 and "mmreward train grpo-tiny --minutes 15" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ({}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ({"GOMP_SPINCOUNT": "1000"}, "None"),
        ({"KMP_BLOCKTIME": "5"}, "None"),
    ],
)
def test_threads_wait_passively_unless_the_user_says_how(given, policy, project):
    """What the C library sees, which is what OpenMP reads, before torch is there."""
    program = (
        "import ctypes, sys, app.cli, mmreward.__main__ as program\n"
        "libc = ctypes.CDLL(None); libc.getenv.restype = ctypes.c_char_p\n"
        "app.cli.main = lambda: print((libc.getenv(b'OMP_WAIT_POLICY') or b'None').decode(), 'torch' in sys.modules)\n"
        "program.main()\n"
    )
    done = run(ROOT, ["-c", program], **given)
    assert done.stdout.split() == [policy, "False"], done.stderr


@pytest.mark.parametrize(("options", "shown"), [([], False), (["-W", "default"], True)])
def test_warnings_to_programmers_are_not_shown_to_people(options, shown):
    program = (
        "import warnings, app.cli, mmreward.__main__ as program\n"
        "app.cli.main = lambda: warnings.warn('goes out of use', FutureWarning)\n"
        "program.main()\n"
    )
    assert ("goes out of use" in run(ROOT, [*options, "-c", program]).stderr) == shown


def test_a_reader_that_has_had_enough(project):
    """`mmreward --help | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for arguments in (["--help"], ["score", "--reward", "pixels"]):
        command = [sys.executable, "-m", "mmreward", *arguments]
        done = subprocess.run(command, cwd=project, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True)
        assert done.stderr.strip() == ""
    os.close(writing)
