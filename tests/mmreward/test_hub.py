"""Models of the hub: one sentence within seconds where it cannot be reached, and what is in the cache will do."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mmreward.assets import model_folder
from mmreward.hub import hub_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"

UNREACHABLE = """
import time
from mmreward import load_reward
import mmreward.rewards.clip_model, mmreward.rewards.pickscore, mmreward.judge.backends.transformers, open_clip
for spec in {specs}:
    start = time.monotonic()
    try:
        load_reward(spec)
    except ValueError as error:
        print(int(time.monotonic() - start), error)
"""


def python(code, tmp_path):
    """What a new process writes that has an empty home and no hub."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment = {**outside, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_an_unreachable_hub_is_said_in_one_sentence_within_seconds(tmp_path):
    specs = [
        "vlm:someone/judge",
        "clip:ViT-B-32/laion2b_s34b_b79k",
        "clip:hf-hub:someone/clip",
        "editscore:EditScore/EditScore-7B?way=expected",
        "pickscore:someone/pickscore",
    ]
    done = python(UNREACHABLE.format(specs=specs), tmp_path)
    lines = done.stdout.splitlines()
    assert len(lines) == len(specs), done.stderr
    for line in lines:
        seconds, error = line.split(" ", 1)
        assert int(seconds) < 15
        assert error.startswith("the hub repository '") and "is not in the cache and could not be downloaded" in error
    assert "Retrying" not in done.stderr


def test_what_is_in_the_cache_is_loaded_without_the_hub_and_without_bars(tmp_path):
    repository = tmp_path / "hub" / "models--someone--judge"
    shutil.copytree(model_folder("tiny-judge"), repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    code = """
from mmreward import load_reward
from transformers.utils import logging
before = logging.get_verbosity(), logging.is_progress_bar_enabled()
judge = load_reward("vlm:someone/judge?question=shapes-1")
print(judge.backend.describe["revision"], before == (logging.get_verbosity(), logging.is_progress_bar_enabled()))
"""
    done = python(code, tmp_path)
    assert done.stdout.split() == [COMMIT, "True"], done.stderr
    assert done.stderr == ""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has one repository; `calls` are the downloads."""
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    calls = []
    files = [
        SimpleNamespace(rfilename=name, size=10**9) for name in ("config.json", "a.safetensors", "sub/b.json", "c.bin")
    ]
    info = SimpleNamespace(sha=COMMIT, siblings=files)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, **options: info)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: calls.append((name, options)) or tmp_path / COMMIT
    )
    return calls


def test_a_download_is_announced_with_its_size_and_pinned_to_one_commit(hub, tmp_path, caplog):
    assert hub_folder("someone/judge", patterns=["*.json", "*.safetensors"]).name == COMMIT
    ((name, options),) = hub
    assert name == "someone/judge" and options["revision"] == COMMIT and not options["local_files_only"]
    assert "someone/judge from the hub: 2 files, 2.0 GB" in caplog.text


def test_what_is_whole_in_the_cache_is_not_announced(hub, monkeypatch, caplog):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: "/there")
    hub_folder("someone/judge")
    assert hub[0][1]["local_files_only"] and not caplog.text
