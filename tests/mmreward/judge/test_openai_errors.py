"""A server's own words reach `error`, whatever the form in which they come, with a hint that fits."""

import json

import pytest

from mmreward.judge.backends.backend import Sampling
from mmreward.judge.backends.openai import OpenAIBackend
from mmreward.judge.backends.openai_errors import connection_failure, fault_of, hidden_error, reply_of
from mmreward.judge.prompt import Fixed, Prompt

ASKED = Prompt((Fixed("How good is it?"),))
SOON = {"retry-after-ms": "5"}
PAGE = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title><style>p {}</style></head><body>nginx &amp; co</body>"

BODIES = {
    "OpenAI": ({"error": {"message": "No cats here.", "type": "invalid_request_error"}}, "No cats here."),
    "an error that is text": ({"error": "No cats here."}, "No cats here."),
    "detail": ({"detail": "No cats here."}, "No cats here."),
    "FastAPI": (
        {"detail": [{"type": "missing", "loc": ["body", "cats"], "msg": "Field required"}]},
        "body.cats: Field required",
    ),
    "message": ({"object": "error", "message": "No cats here.", "code": 400}, "No cats here."),
    "Spring": ({"status": 400, "error": "Bad Request", "message": "No cats here."}, "Bad Request: No cats here."),
    "Amazon": ({"Message": "No cats here."}, "No cats here."),
    "Google": ([{"error": {"code": 400, "message": "No cats here.", "status": "INVALID_ARGUMENT"}}], "No cats here."),
    "an error in an error": ({"error": {"error": {"message": "No cats here."}}}, "No cats here."),
    "a router": (
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {"raw": json.dumps({"error": {"message": "No cats here."}}), "provider_name": "x"},
            }
        },
        "Provider returned error: No cats here.",
    ),
    "several": ({"errors": [{"message": "No cats."}, {"message": "No dogs."}]}, "No cats.; No dogs."),
    "HTML": (PAGE, "502 Bad Gateway nginx & co"),
    "plain text": ("upstream connect error", "upstream connect error"),
    "empty": ("", "nothing (an empty body)"),
    "unknown keys": ({"oops": {"cats": 0}}, '{"oops": {"cats": 0}}'),
    "true and a message": ({"error": True, "message": "No cats here."}, "No cats here."),
}


@pytest.mark.parametrize(("body", "words"), BODIES.values(), ids=BODIES.keys())
def test_the_words_of_any_body_reach_the_error(server, body, words):
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    server.answer = lambda _: (400, raw, {})
    backend = OpenAIBackend.load(server.url, "m", retries=0)
    (((text,),),) = backend.generate([ASKED], Sampling())
    assert text.status == "io_error" and text.error.startswith(f"the server answered 400: {words}")


HIDDEN = {
    "no code": ({"error": {"message": "overloaded"}}, "io_error", 3),
    "text": ({"error": "overloaded"}, "io_error", 3),
    "its code": ({"error": {"message": "slow down", "code": 429}}, "io_error", 3),
    "its type": ({"error": {"message": "slow down", "type": "rate_limit_error"}}, "io_error", 3),
    "wrong for good": ({"error": {"message": "no such thing", "type": "invalid_request_error"}}, "io_error", 1),
    "in a choice": (
        {
            "choices": [
                {"error": {"code": 502, "message": "lost"}, "message": {"content": ""}, "finish_reason": "error"}
            ]
        },
        "io_error",
        3,
    ),
    "a filter": ({"error": {"message": "no", "code": "content_filter"}}, "refused", 1),
    "a list": ([{"error": {"code": 503, "message": "overloaded"}}], "io_error", 3),
    "no choices": ({"choices": [], "error": {"message": "timeout", "code": 504}}, "timeout", 3),
    "detail": ({"detail": "overloaded"}, "io_error", 3),
}


@pytest.mark.parametrize(("body", "status", "tries"), HIDDEN.values(), ids=HIDDEN.keys())
def test_an_error_that_comes_with_a_200_is_that_error_and_retried_like_it(server, body, status, tries):
    server.answer = lambda _: (200, json.dumps(body).encode(), SOON)
    backend = OpenAIBackend.load(server.url, "m", retries=2)
    (((text,),),) = backend.generate([ASKED], Sampling())
    assert text.status == status and len(server.bodies) == tries
    said = next(
        word for word in ("overloaded", "slow down", "no such thing", "lost", "no", "timeout") if word in str(body)
    )
    assert said in text.error and (status == "refused" or "answered 200 with an error" in text.error)


def test_a_server_that_recovers_from_an_error_with_a_200_gives_an_answer(server):
    answers = [(200, {"error": {"message": "overloaded"}}, SOON), server.completion("fine")]
    server.answer = lambda _: answers[len(server.bodies) - 1]
    (((text,),),) = OpenAIBackend.load(server.url, "m", retries=1).generate([ASKED], Sampling())
    assert (text.status, text.text) == ("ok", "fine")


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": "4"}}], "error": None},
        {"choices": [{"message": {"content": "error"}}], "message": "hello"},
        {"choices": []},
        {"object": "list", "data": []},
        "error",
        4,
    ],
)
def test_what_is_no_error_is_none(body):
    assert hidden_error(json.dumps(body)) is None


@pytest.mark.parametrize(
    ("code", "body", "hint"),
    [
        (401, {"error": "no"}, "the environment variable MY_KEY right?"),
        (403, {"error": "no"}, "may it use this model"),
        (402, {"error": "no"}, "no credit"),
        (404, {"error": "The model `m` does not exist"}, "the model's name right?"),
        (405, b"", "does it end in /v1?"),
        (413, PAGE, "?pixels="),
        (429, {"error": "slow down"}, "?concurrency=4"),
        (429, {"error": {"message": "no", "code": "insufficient_quota"}}, "no credit"),
        (500, "oops", "log says why"),
        (503, "", "?retries="),
        (504, "", "?timeout="),
        (400, {"error": "At most 1 image(s) may be provided in one request."}, "limit-mm-per-prompt '{\"image\": 2}'"),
        (400, {"error": "This model does not support image input"}, "vision-language model"),
        (400, {"error": "image exceeds 5 MB maximum"}, "?pixels="),
        (400, {"error": "Cannot load local files without --allowed-local-media-path"}, "leave out ?files"),
        (400, {"error": "top_logprobs must be at most 5"}, "?top=5"),
    ],
)
def test_hints_fit_the_cause(code, body, hint):
    text = body if isinstance(body, str) else body.decode() if isinstance(body, bytes) else json.dumps(body)
    reply = reply_of(fault_of(code, text), "MY_KEY")
    assert reply.status == ("timeout" if code == 504 else "io_error")
    assert hint in reply.error.partition(";")[2] and reply.error.count(";") == 1


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "filtered", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        {"error": {"message": "Your request was rejected as a result of our safety system."}},
        {"error": {"message": "x", "code": "data_inspection_failed"}},
        {"error": {"message": "Your input was flagged", "code": 403}},
    ],
)
def test_a_content_filter_is_a_refusal(body):
    assert reply_of(fault_of(400, json.dumps(body)), "KEY").status == "refused"


@pytest.mark.parametrize(
    ("cause", "hint"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "is the server running"),
        (OSError(-2, "Name or service not known"), "is the name of the host right?"),
        (OSError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "certificate trusted"),
        (ConnectionResetError(104, "Connection reset by peer"), "its log says why"),
    ],
)
def test_a_connection_that_fails_says_what_to_look_at(cause, hint):
    error = RuntimeError("Connection error.")
    error.__cause__ = cause
    said, look_at = connection_failure(error)
    assert said == str(cause) and hint in look_at


def test_content_in_parts_is_read(server):
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "score: 1"}]},
        {"type": "text", "text": "the score "},
        {"type": "image_url", "image_url": {"url": "data:"}},
        "is 4",
    ]
    server.answer = lambda _: server.completion(parts)
    (((text,),),) = OpenAIBackend.load(server.url, "m").generate([ASKED], Sampling())
    assert (text.status, text.text) == ("ok", "the score is 4")


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY"])
def test_an_answer_that_a_filter_ended_is_a_refusal(server, reason):
    server.answer = lambda _: server.completion("", finish=reason)
    (((text,),),) = OpenAIBackend.load(server.url, "m").generate([ASKED], Sampling())
    assert text.status == "refused"
