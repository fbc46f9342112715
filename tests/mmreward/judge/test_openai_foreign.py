"""The OpenAI backend against a server that this project did not write: `transformers serve` with the bundled judge."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from PIL import Image

from mmreward.assets import model_folder
from mmreward.edit import Edit
from mmreward.judge.backends.backend import Sampling
from mmreward.judge.backends.folder import find_model
from mmreward.judge.backends.openai import OpenAIBackend
from mmreward.judge.backends.transformers import TransformersBackend
from mmreward.judge.prompt import Fixed, Given, Prompt
from mmreward.reward import load_reward
from mmreward.shapes import World

DIGITS = ("0", "1", "2", "3", "4", "5")
FOLDER = str(model_folder("tiny-judge"))
LONGEST = 240

pytestmark = pytest.mark.timeout(900)  # the start of the server counts too


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Address of the server, which reads the labels 0 to 5 for scores at /v1/systemone."""
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        pytest.skip("transformers serve needs fastapi, uvicorn and openai: pip install 'transformers[serving]'")
    folder = tmp_path_factory.mktemp("served")
    (folder / "decision.json").write_text(json.dumps({"labels": {"score": DIGITS}}))
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", FOLDER, "--host", "127.0.0.1"]
    command += ["--device", "cpu", "--dtype", "float32"]
    command += ["--decision-config", str(folder / "decision.json")]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)}
    for _ in range(3):  # somebody else may take the port before the server does
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with _running([*command, "--port", str(port)], quiet, folder / "log") as process:
            if _is_up(process, f"http://127.0.0.1:{port}/health", folder / "log"):
                yield f"http://127.0.0.1:{port}/v1"
                return
    raise AssertionError(f"ended three times: {(folder / 'log').read_text()[-2000:]}")


@contextmanager
def _running(command, environment, log):
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_up(process, place, log):
    """Waits until the server answers; false where it ended instead."""
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        try:
            with urlopen(place, timeout=2):
                return True
        except (URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"not up after {LONGEST} s: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def own():
    """The same judge in this process."""
    return TransformersBackend.load(find_model("tiny"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def edits():
    """(instruction, before, after) of three tasks: two right ones, and one that changed nothing."""
    made = [
        (task.instruction, Image.fromarray(task.source_image), Image.fromarray(task.target_image))
        for task in World("validation", seed=5).tasks(3)
    ]
    return [*made[:2], (made[2][0], made[2][1], made[2][1])]


def test_its_texts_are_those_of_the_judge_in_this_process(address, own, edits):
    prompts = [
        Prompt((Given(instruction), before), (Prompt((after,), (Prompt((Fixed("following"),)),)),))
        for instruction, before, after in edits
    ]
    backend = OpenAIBackend.load(address, FOLDER, timeout=240, retries=0)
    written = backend.generate(prompts, Sampling(max_new_tokens=1))
    told = own.probabilities(prompts, DIGITS)
    for ((text,),), (answer,) in zip(written, told, strict=True):
        assert text.status == "ok" and not text.finished
        assert text.text == DIGITS[answer.probabilities.index(max(answer.probabilities))]


def test_its_choice_probabilities_are_those_of_the_judge_in_this_process(address, own, edits):
    levels = ["none of it", "a little", "less than half", "more than half", "nearly all", "all of it"]
    for instruction, before, after in edits[1:]:
        assets = {"<before>": _asset(before), "<after>": _asset(after)}
        question = {"type": "score", "instructions": "following", "criteria": levels}
        state = f"{instruction}<before><after>"
        body = {"model": FOLDER, "state": state, "questions": {"q": question}, "assets": assets}
        answer = _post(f"{address}/systemone", body)["answers"]["q"]
        theirs = [answer["probabilities"][digit] for digit in DIGITS]
        # The server writes its own question around ours.
        listed = "\n".join(f"{digit}. {level}" for digit, level in zip(DIGITS, levels))
        rest = f"\n\nfollowing\n{listed}\nAnswer with the label of the level that fits best (0 to 5) only."
        prompt = Prompt((Fixed(instruction), before, after, Fixed(rest)))
        ((ours,),) = own.probabilities([prompt], DIGITS)
        assert [p / ours.mass for p in ours.probabilities] == pytest.approx(theirs, abs=1e-4)


def test_log_probabilities_that_it_leaves_out_are_no_score(address, edits):
    ((instruction, before, after), *_) = edits
    reward = load_reward(f"openai:{address}#{FOLDER}?timeout=240&retries=0")
    (score,) = reward.score([Edit(instruction, before, after)])
    assert score.status == "parse_error" and "without the log-probabilities" in score.error
    assert score.provenance["server"] == "other" and score.provenance["model"] == FOLDER


def _asset(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return {"type": "image", "format": "png", "data_base64": base64.b64encode(stream.getvalue()).decode()}


def _post(place, body):
    request = Request(place, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=240) as response:
        return json.load(response)
