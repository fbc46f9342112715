"""What goes wrong between us and a server becomes a status with a reason: never a number, never an exception."""

import logging
import time

import pytest
from PIL import Image

from mmreward.edit import Edit
from mmreward.judge.backends.backend import Sampling
from mmreward.judge.backends.openai import OpenAIBackend
from mmreward.judge.backends.openai_server import Found, Server, ServerError
from mmreward.judge.prompt import Fixed, Prompt
from mmreward.reward import load_reward

DIGITS = ("0", "1", "2", "3", "4", "5")
SOON = {"retry-after-ms": "10"}
ASKED = Prompt((Fixed("How good is it?"),))


def load(server, **options):
    return OpenAIBackend.load(server.url, "m", **{"timeout": 60.0, "retries": 1, **options})


def says(message, code=None):
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}


def nothing(server):
    return server.completion("4")


def not_a_number(server):
    made = server.completion("4", {"4": 1.0})
    made["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["logprob"] = float("nan")
    return made


def no_logarithm(server):
    made = server.completion("4", {"4": 1.0, "3": 1.0})
    return made


CASES = [
    ("429", lambda s: (429, says("too many"), SOON), "io_error", "the server answered 429: too many; ask less", 2),
    ("500", lambda s: (500, b"oops", SOON), "io_error", "the server answered 500", 2),
    ("503", lambda s: (503, says("loading"), SOON), "io_error", "answered 503: loading", 2),
    ("504", lambda s: (504, b"gateway", SOON), "timeout", "answered 504", 2),
    ("dropped", lambda s: None, "io_error", "the connection to", 2),
    ("broken JSON", lambda s: (200, b'{"choices": [', {}), "io_error", "is not a chat completion", 1),
    ("a page", lambda s: (200, b"<html>", {"Content-Type": "text/html"}), "io_error", "not a chat completion", 1),
    ("no choices", lambda s: {"choices": []}, "io_error", "choices", 1),
    ("no message", lambda s: {"choices": [{"index": 0}]}, "io_error", "choices.0.message", 1),
    ("400", lambda s: (400, says("At most 1 image(s) may be provided")), "io_error", "limit-mm-per-prompt", 1),
    ("401", lambda s: (401, says("bad key")), "io_error", "OPENAI_API_KEY", 1),
    ("404", lambda s: (404, says("The model `m` does not exist")), "io_error", "model's name", 1),
    ("too long", lambda s: (400, says("maximum context length is 1024")), "not_applicable", "longer than", 1),
    ("filter", lambda s: (400, says("no", "content_filter")), "refused", "refuses the request", 1),
    ("stopped", lambda s: s.completion("", {"4": 1.0}, finish="content_filter"), "refused", "content filter", 1),
    ("refusal", lambda s: s.completion(None, {"4": 1.0}, refusal="I cannot."), "refused", "I cannot.", 1),
]
NO_NUMBER = [
    ("no log-probabilities", nothing, "without the log-probabilities"),
    (
        "empty",
        lambda s: {**nothing(s), "choices": [{"message": {"content": ""}, "logprobs": {"content": []}}]},
        "without",
    ),
    ("NaN", not_a_number, "their probabilities sum to nan"),
    ("more than one", no_logarithm, "their probabilities sum to 2"),
    ("labels not listed", lambda s: s.completion("4", {"4": 0.3, "3": 0.2}), "let it list more"),
]


@pytest.mark.parametrize(("answer", "status", "reason", "tries"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_failure_is_a_status_of_both_methods(server, answer, status, reason, tries):
    server.answer = lambda body: _with_headers(answer(server))
    backend = load(server)
    ((found,),) = backend.probabilities([ASKED], DIGITS)
    assert found.status == status and reason in found.error and found.probabilities == ()
    assert len(server.bodies) == tries
    (((text,),),) = backend.generate([ASKED], Sampling())
    assert text.status == status and reason in text.error and text.text == ""


def _with_headers(answer):
    return (*answer, {}) if isinstance(answer, tuple) and len(answer) == 2 else answer


@pytest.mark.parametrize(("answer", "reason"), [c[1:] for c in NO_NUMBER], ids=[c[0] for c in NO_NUMBER])
def test_what_is_no_probability_is_a_parse_error(server, answer, reason):
    server.answer = lambda body: answer(server)
    ((found,),) = load(server).probabilities([ASKED], DIGITS)
    assert found.status == "parse_error" and reason in found.error and found.probabilities == ()


def test_labels_that_hold_next_to_nothing_may_be_missing_from_the_list(server):
    server.answer = lambda body: server.completion("4", {"4": 0.9, "3": 0.08, "a": 0.001})
    ((found,),) = load(server).probabilities([ASKED], DIGITS)
    assert found.status == "ok" and found.mass == pytest.approx(0.98)


def test_a_slow_server_is_a_timeout(server):
    server.pause = 0.6
    slow = Server(server.url, timeout=0.1, retries=0)  # not by `load`, whose own question would have 0.1 s too
    ((found,),) = OpenAIBackend(slow, Found("other", None, ("m",)), "m").probabilities([ASKED], DIGITS)
    assert found.status == "timeout" and "1 try of 0.1 s" in found.error


def test_a_server_that_recovers_is_asked_again_when_it_says(server):
    answers = [(429, says("wait"), {"Retry-After": "1"}), (500, b"", SOON), server.completion("4", {"4": 1.0})]
    server.answer = lambda body: answers[len(server.bodies) - 1]
    start = time.monotonic()
    ((found,),) = load(server, retries=2).probabilities([ASKED], DIGITS)
    assert found.status == "ok" and len(server.bodies) == 3 and time.monotonic() - start >= 1


def test_one_row_that_fails_leaves_the_others_alone(server):
    def answer(body):
        if "second" in str(body["messages"]):
            return 500, b"", SOON
        return server.completion("4", {"4": 1.0})

    server.answer = answer
    prompts = [Prompt((Fixed(name),)) for name in ("first", "second", "third")]
    found = load(server).probabilities(prompts, DIGITS)
    assert [answer.status for (answer,) in found] == ["ok", "io_error", "ok"]


def test_images_that_cannot_be_written_are_a_status(server, tmp_path):
    backend = load(server, files=tmp_path)
    tmp_path.rmdir()
    ((one, other),) = backend.probabilities([Prompt((Image.new("RGB", (4, 4)),), (ASKED, ASKED))], DIGITS)
    assert one.status == other.status == "io_error" and "cannot be written" in one.error


def test_the_key_comes_from_the_environment_and_is_seen_nowhere(server, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    server.answer = lambda body: (401, says("wrong key sk-very-secret"), {})
    backend = load(server, key_env="MY_KEY")
    ((found,),) = backend.probabilities([ASKED], DIGITS)
    assert server.headers[0]["authorization"] == "Bearer sk-very-secret"
    assert "MY_KEY" in found.error and "secret" not in found.error + str(backend.describe) + caplog.text
    with pytest.raises(ValueError, match="OTHER_KEY"):
        load(server, key_env="OTHER_KEY")


@pytest.mark.parametrize("address", ["http://me:secret@127.0.0.1:1/v1", "http://secret@host/v1", "ftp://secret@host"])
def test_an_address_with_a_password_is_refused_and_not_repeated(address):
    with pytest.raises(ValueError) as error:
        load_reward(f"openai:{address}#m")
    assert "secret" not in str(error.value)


def test_the_reward_scores_edits_and_says_what_made_them(server):
    image = Image.new("RGB", (32, 32), "red")
    reward = load_reward(f"openai:{server.url}#m?concurrency=2&retries=0&question=edit-1")
    good, empty, unreadable = reward.score(
        [Edit("make it blue", image, image), Edit(" ", image, image), Edit("make it blue", image, b"no image")]
    )
    assert good.ok and good.dims["quality"] == pytest.approx((0.5 * 4 + 0.3 * 3 + 0.2 * 5) / 5)
    assert (empty.status, unreadable.status) == ("not_applicable", "io_error")
    assert good.provenance["model"] == "m" and good.provenance["backend"] == "openai"
    assert good.provenance["address"] == server.url and "zero-width" in good.provenance["given_text"]
    assert reward.name == f"openai:{server.url}#m"


def test_a_server_without_log_probabilities_gives_no_score(server):
    server.answer = lambda body: server.completion("4")
    image = Image.new("RGB", (32, 32), "red")
    (score,) = load_reward(f"openai:{server.url}").score([Edit("make it blue", image, image)])
    assert score.status == "parse_error" and "?way=rubric" in score.error


def test_a_wrong_call_says_what_to_write(server):
    with pytest.raises(ValueError, match="needs a server"):
        load_reward("openai:")
    with pytest.raises(ValueError, match="Did you mean 'timeout'"):
        load_reward(f"openai:{server.url}#m?timeuot=3")
    with pytest.raises(ValueError, match="concurrency must be a whole number"):
        load_reward(f"openai:{server.url}#m?concurrency=many")
    server.models.append({"id": "other", "owned_by": "x"})
    with pytest.raises(ValueError, match=r"which model.*it has: m, other"):
        load_reward(f"openai:{server.url}")
    with pytest.raises(ServerError, match="no server answers"):
        load_reward("openai:http://127.0.0.1:9/v1#m")
