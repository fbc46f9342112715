"""The doctor against servers and rewards whose faults are known."""

import random

import numpy as np
import pytest

from mmreward.bench.doctor import examine
from mmreward.bench.doctor_reward import TASKS, reward_checks
from mmreward.reward import Reward
from mmreward.score import Score
from mmreward.shapes import World


def pixels(image):
    return np.asarray(image).tobytes()


@pytest.fixture(scope="module")
def right():
    """(before, after) of the edits that the doctor knows to be right."""
    return {(pixels(task.source_image), pixels(task.target_image)) for task in World("validation", 0).tasks(TASKS)}


@pytest.fixture
def judge(server, right):
    """A server with a judge that knows colours and the doctor's edits; `judge.faults` switches faults on."""
    server.faults = set()

    def answer(body):
        images, faults = server.images_of(body), server.faults
        tokens = 20 + (
            0 if "blind" in faults else sum(min(image.width * image.height // 784, 1280) for image in images)
        )
        if "reversed" in faults:
            images = images[::-1]
        if len(images) == 2 and images[0].size == (64, 64):
            word, other = ("5", "0") if (pixels(images[0]), pixels(images[1])) in right else ("0", "5")
        else:
            word, other = ("yes", "no") if images and images[0].getpixel((0, 0))[0] > 128 else ("no", "yes")
        sure = 0.5 + 0.45 * random.random() if "moody" in faults else 0.95
        sure = 0.6 if "bends" in faults and body["presence_penalty"] else sure
        listed = {word: sure, other: 0.98 - sure} | {f"x{i}": 0.001 for i in range(18)}
        if "mumbles" in faults:
            listed = {"I": 0.7, word: 0.2, other: 0.05} | {f"x{i}": 0.001 for i in range(17)}
        if "silent" in faults:
            listed = None
        elif "few" in faults and body.get("top_logprobs", 0) > 5:
            return 400, {"error": {"message": "top_logprobs must be at most 5"}}, {}
        return server.completion(
            word, dict(list((listed or {}).items())[: body.get("top_logprobs", 0)]) or None, tokens=tokens
        )

    server.answer = answer
    return server


def findings(judge, *faults, options=""):
    judge.faults = set(faults)
    return {check.name: check for check in examine(f"openai:{judge.url}#m?retries=0{options}")}


def test_a_server_that_is_well_passes_all(judge):
    found = findings(judge)
    assert {check.status for check in found.values()} == {"ok"}, found
    assert list(found)[:3] == ["server", "model", "question"] and "20 tokens listed" in found["log-probabilities"].found
    assert found["image order"].found.endswith(f"{TASKS} right edits score above the two images exchanged")
    assert "448x448: 256 tokens" in found["pixels"].found


@pytest.mark.parametrize(
    ("fault", "name", "status", "words"),
    [
        ("reversed", "colour order", "failed", "0.03 when it is"),
        ("blind", "pixels", "failed", "do not reach the model"),
        ("mumbles", "yes or no", "warning", "another word"),
        ("moody", "repeated", "warning", "batching"),
        ("silent", "log-probabilities", "skipped", "?way=rubric"),
        ("few", "log-probabilities", "warning", "?top=5"),
        ("bends", "penalties", "ok", "bends them"),
    ],
)
def test_a_fault_is_found_and_named(judge, fault, name, status, words):
    found = findings(judge, fault)
    assert found[name].status == status and words in found[name].found + found[name].advice


def test_advice_that_is_taken_helps(judge):
    assert findings(judge, "few")["scores"].status == "failed"
    found = findings(judge, "few", options="&top=5")
    assert {check.status for check in found.values()} <= {"ok", "warning"}, found


def test_a_server_without_log_probabilities_cannot_give_expected_scores(judge):
    found = findings(judge, "silent")
    assert found["scores"].status == "failed" and "parse_error" in found["scores"].advice
    assert found["colour order"].status == "ok"  # by its words


def test_no_server_is_a_finding_and_a_server_that_fails_ends_the_examination(judge):
    (check,) = examine("openai:http://127.0.0.1:9/v1#m")
    assert (check.name, check.status) == ("server", "failed") and "no server answers" in check.advice
    judge.answer = lambda body: (400, {"error": {"message": "At most 1 image(s) may be provided"}}, {})
    judge.models[0]["owned_by"] = "vllm"
    found = list(examine(f"openai:{judge.url}#m"))
    assert (
        found[-1].name == "question" and "limit-mm-per-prompt" in found[-1].found and "vllm serve m" in found[-1].advice
    )


def test_a_model_that_is_not_listed_is_a_warning(judge):
    assert {check.name: check.status for check in examine(f"openai:{judge.url}#other")}["model"] == "warning"


class Constant(Reward):
    """A reward that does nothing right: it prefers what was not edited, forgets, and raises for a bad row."""

    name, dims = "constant", ()

    def __init__(self):
        self.calls = 0

    def score(self, edits):
        self.calls += 1
        return [Score(0.1 * self.calls if edit.image("edited") else 0.0) for edit in edits]


def test_a_reward_that_forgets_and_raises_is_found_out():
    found = {check.name: check for check in reward_checks(Constant())}
    assert found["right edits"].status == "warning" and found["repeated"].status == "failed"
    assert found["bad rows"].status == "failed" and "ImageError" in found["bad rows"].found


class Comparing(Reward):
    """A reward that ranks the edits of one source, by how much they changed; alone an edit has no rank."""

    name, dims = "comparing", ()

    def score(self, edits):
        good = [e for e in edits if e.instruction.strip() and e.edited != b"no image"]
        return [self._one(edit, [one for one in good if one.group == edit.group]) for edit in edits]

    def _one(self, edit, group):
        if edit not in group:
            return Score.failed("io_error" if edit.edited == b"no image" else "not_applicable", "cannot be compared")
        if len(group) == 1:
            return Score.failed("not_applicable", "no company")
        forward = (pixels(edit.image("source")), pixels(edit.image("edited"))) in self.right
        return Score(1.0 if forward else 0.0)


def test_a_reward_that_compares_is_given_company(right):
    Comparing.right = right
    found = {check.name: check.status for check in reward_checks(Comparing())}
    assert found.pop("batch and single") == "skipped" and set(found.values()) == {"ok"}, found


def test_a_reward_that_fails_everywhere_says_why():
    class Failing(Constant):
        def score(self, edits):
            return [Score.failed("io_error", "the disk is gone") for _ in edits]

    (check,) = reward_checks(Failing())
    assert check.status == "failed" and "the disk is gone" in check.advice


def test_the_bundled_judge_is_well():
    found = {check.name: check for check in examine("vlm:tiny")}
    assert {check.status for check in found.values()} == {"ok"}, found
    assert "label mass" in found and "batch and single" in found
