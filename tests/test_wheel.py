"""The wheel holds everything: built, installed elsewhere, and used from there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input"]

USE = """
import sys, mmreward, app.cli
from pathlib import Path
from mmreward.assets import example_edits, model_names
from mmreward.reward import RECIPES
place = Path(sys.argv[1]).resolve()
for file in (mmreward.__file__, app.cli.__file__, example_edits(), RECIPES["recommended"]):
    assert Path(file).resolve().is_relative_to(place), file
    assert Path(file).exists(), file
print(len(model_names()), "models")
"""


@pytest.mark.wheel
@pytest.mark.timeout(600)
def test_an_installed_wheel_scores(tmp_path):
    place = tmp_path / "site"
    build = [*PIP, "wheel", str(ROOT), "--no-build-isolation", "--no-deps", "--wheel-dir", str(tmp_path)]
    subprocess.run(build, check=True, timeout=120, cwd=tmp_path)
    (wheel,) = tmp_path.glob("mmreward-*.whl")
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(place), str(wheel)], check=True, timeout=120)

    def run(arguments: list[str], path: list[Path]) -> str:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = run(["-c", USE, str(place)], [place])
    assert f"{len([f for f in (ROOT / 'assets' / 'models').glob('*') if f.is_dir()])} models" in said
    project = tmp_path / "project"  # with packages of the same names, which come first on the path
    for package in ("app", "editing"):
        (project / package).mkdir(parents=True)
        (project / package / "__init__.py").write_text("")
    score = ["score", "--reward", "pixels", "--out", "scores.jsonl"]
    assert "24 ok" in run(["-m", "mmreward", *score], [project, place])
    assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 24
    program = "import sys; from mmreward.__main__ import main; main()"  # what the installed script does
    assert "mmreward COMMAND" in run(["-c", program, "--help"], [project, place])
