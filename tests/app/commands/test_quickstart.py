"""`mmreward quickstart` on the bundled models, cut down to one small iteration."""

import json
import re

import pytest

from app.cli import main
from app.commands import quickstart as command


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["quickstart", *arguments])
    return int(stopped.value.code or 0)


@pytest.mark.timeout(1200)
def test_the_whole_loop(tmp_path, monkeypatch, capsys):
    tiny = ["rollout.groups=2", "rollout.members=2", "evaluation.monitor_tasks=2", "evaluation.final_tasks=3"]
    small = [*command._CHANGES, *tiny]
    monkeypatch.setattr(command, "_CHANGES", small)
    monkeypatch.setattr(command, "_EXAMPLES", 2)
    monkeypatch.setattr(command, "_MEMBERS", 1)
    out = tmp_path / "run"
    assert call("--out", str(out), "--minutes", "0.05") == 0
    page = (out / "quickstart.html").read_text()
    assert page.count("data:image/png") >= 6 and "<svg" in page
    text = re.sub("data:image/png;base64,[A-Za-z0-9+/=]+", "", page)  # base64 may hold any word
    assert "http" not in text.split("</style>")[1]
    assert {"recipe.yaml", "log.jsonl", "result.json", "model"} <= {path.name for path in out.iterdir()}
    final = json.loads((out / "result.json").read_text())["final"]
    assert final["before"]["tasks"] == final["after"]["tasks"] == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "quickstart.html" in said and "mmreward train grpo-tiny" in said and "recolour-right" in said
    assert call("--out", str(out)) == 2
    assert "is not empty" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(out)])
    assert not stopped.value.code and (out / "report.html").is_file()
    assert (out / "quickstart.html").read_text() == page


def test_folders_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(command._free(None)) == "runs/quickstart"
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    assert str(command._free(None)) == "runs/quickstart-2"


def test_help_shows_an_example(capsys):
    assert call("--help") == 0
    assert "mmreward quickstart --minutes 10" in capsys.readouterr().out
