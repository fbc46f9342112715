"""Parameters that a server refuses: left out or replaced, remembered, and said in provenance."""

import pytest
from PIL import Image

from mmreward.edit import Edit
from mmreward.judge.backends.backend import Sampling
from mmreward.judge.backends.openai import OpenAIBackend
from mmreward.judge.backends.openai_errors import ServerFault
from mmreward.judge.backends.openai_parameters import adjusted, refused_parameter
from mmreward.judge.prompt import Fixed, Prompt
from mmreward.reward import load_reward

DIGITS = ("0", "1", "2", "3", "4", "5")
SCHEMA = {"type": "object", "properties": {"score": {"type": "number"}}}
GOOD = '{"reasoning": "fine", "score": [8, 9]}'


def prompts(count):
    return [Prompt((Fixed(f"Question {number}"),)) for number in range(count)]


def refusing(server, *names, words="Unsupported parameter: '{}' is not supported with this model.", code=400):
    """A server whose model refuses the parameters `names`."""

    def answer(body):
        bad = [name for name in names if name in body]
        if bad:
            return code, {"error": {"message": words.format(bad[0])}}, {}
        return server.completion(GOOD, {"4": 1.0})

    server.answer = answer


def refuses_both(server):
    def answer(body):
        if {"temperature", "top_p"} <= body.keys():
            return 400, {"error": {"message": "`temperature` and `top_p` cannot both be specified for this model."}}, {}
        return server.completion(GOOD)

    server.answer = answer


def refuses_formats(server, *formats):
    def answer(body):
        if body.get("response_format", {}).get("type") in formats:
            return 400, {"error": {"message": "This response_format type is unavailable now"}}, {}
        return server.completion(GOOD)

    server.answer = answer


def google(server):
    """Names all that it does not know, in a list, and not in the field for it."""

    def answer(body):
        bad = [name for name in ("seed", "frequency_penalty", "presence_penalty") if name in body]
        if bad:
            said = "".join(
                f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.\n' for name in bad
            )
            return 400, [{"error": {"code": 400, "message": said, "status": "INVALID_ARGUMENT"}}], {}
        return server.completion(GOOD)

    server.answer = answer


def fastapi(server):
    def answer(body):
        if "frequency_penalty" in body:
            where = {"type": "extra_forbidden", "loc": ["body", "frequency_penalty"], "msg": "Extra inputs"}
            return 422, {"detail": [where]}, {}
        return server.completion(GOOD)

    server.answer = answer


def field(server):
    """Names the parameter in the field for it alone."""

    def answer(body):
        if "temperature" in body:
            return 400, {"error": {"message": "Only the default is supported.", "param": "temperature"}}, {}
        return server.completion(GOOD)

    server.answer = answer


def raises(server):
    def answer(body):
        if "seed" in body:
            return 500, b"TypeError: create() got an unexpected keyword argument 'seed'", {"retry-after-ms": "5"}
        return server.completion(GOOD)

    server.answer = answer


REASONING = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
SERVERS = {
    "GPT-5": (lambda s: refusing(s, *REASONING), {"parameters_left_out": list(REASONING)}),
    "a new name for the length": (
        lambda s: refusing(s, "max_tokens", words="'{}' is not supported. Use 'max_completion_tokens' instead."),
        {"parameters_replaced": {"max_tokens": "max_completion_tokens"}},
    ),
    "Gemini": (google, {"parameters_left_out": ["frequency_penalty", "presence_penalty", "seed"]}),
    "Gemini's penalty": (
        lambda s: refusing(s, "frequency_penalty", "presence_penalty", words="Penalty is not enabled for this model"),
        {"parameters_left_out": ["frequency_penalty", "presence_penalty"]},
    ),
    "Claude": (refuses_both, {"parameters_left_out": ["top_p"]}),
    "no schema": (
        lambda s: refuses_formats(s, "json_schema"),
        {"parameters_replaced": {"json_schema": "json_object"}},
    ),
    "no format": (
        lambda s: refuses_formats(s, "json_schema", "json_object"),
        {"parameters_left_out": ["response_format"]},
    ),
    "FastAPI": (fastapi, {"parameters_left_out": ["frequency_penalty"]}),
    "a field for the name": (field, {"parameters_left_out": ["temperature"]}),
    "a library that raises": (raises, {"parameters_left_out": ["seed"]}),
}


@pytest.mark.parametrize(("start", "described"), SERVERS.values(), ids=SERVERS.keys())
def test_what_a_server_names_is_left_out_and_remembered(server, start, described):
    start(server)
    backend = OpenAIBackend.load(server.url, "m", retries=0, concurrency=1)
    sampling = Sampling(max_new_tokens=7, schema=SCHEMA)
    (((text,),),) = backend.generate(prompts(1), sampling)
    assert (text.status, text.text) == ("ok", GOOD)
    asked = len(server.bodies)
    assert asked > 1 and backend.describe.items() >= described.items()
    assert [key for key in backend.describe if key.startswith("parameters_")] == list(described)
    backend.generate(prompts(5), sampling)
    assert len(server.bodies) == asked + 5  # nothing is refused twice
    last = server.bodies[-1]
    assert last.get("max_tokens", last.get("max_completion_tokens")) == 7


def test_label_probabilities_are_read_without_what_is_refused(server):
    refusing(server, *REASONING)
    backend = OpenAIBackend.load(server.url, "m", retries=0)
    ((answer,),) = backend.probabilities(prompts(1), DIGITS)
    assert answer.status == "ok" and answer.probabilities[4] == 1.0
    assert server.bodies[-1]["logprobs"] is True


def test_provenance_says_what_was_left_out(server):
    refusing(server, "temperature", "max_tokens")
    image = Image.new("RGB", (32, 32), "red")
    reward = load_reward(f"openai:{server.url}#m?way=rubric&retries=0")
    (score,) = reward.score([Edit("make it blue", image, image)])
    assert score.ok and score.provenance["parameters_left_out"] == ["temperature"]
    assert score.provenance["parameters_replaced"] == {"max_tokens": "max_completion_tokens"}


def test_an_option_leaves_parameters_out_from_the_start(server):
    image = Image.new("RGB", (32, 32), "red")
    server.answer = lambda body: server.completion(GOOD)
    reward = load_reward(
        f"openai:{server.url}#m?way=rubric&retries=0&leave_out=temperature,seed,max_tokens,json_schema"
    )
    (score,) = reward.score([Edit("make it blue", image, image)])
    assert score.ok and not any({"temperature", "seed", "max_tokens"} & body.keys() for body in server.bodies)
    formats = [(body["response_format"], body["max_completion_tokens"] > 0) for body in server.bodies]
    assert formats == [({"type": "json_object"}, True)] * 2  # both images, and the edited one alone
    assert score.provenance["parameters_left_out"] == ["temperature", "seed"]
    with pytest.raises(ValueError, match="Did you mean 'temperature'"):
        load_reward(f"openai:{server.url}#m?leave_out=temprature")


def test_what_helped_nothing_is_not_remembered(server):
    """A row whose error quotes the name of a parameter changes nothing for the rows after it."""

    def answer(body):
        if "Question 0" in str(body["messages"]):
            return 400, {"error": {"message": "no answer to 'plant a seed', whatever the temperature"}}, {}
        return server.completion(GOOD)

    server.answer = answer
    backend = OpenAIBackend.load(server.url, "m", retries=0, concurrency=1)
    ((bad,),), ((good,),) = backend.generate(prompts(2), Sampling())
    assert (bad.status, good.status) == ("io_error", "ok") and "plant a seed" in bad.error
    assert server.bodies[-1].keys() >= {"seed", "temperature"}
    assert "parameters_left_out" not in backend.describe


def test_a_length_is_never_left_out(server):
    refusing(server, "max_tokens", "max_completion_tokens")
    backend = OpenAIBackend.load(server.url, "m", retries=0)
    (((text,),),) = backend.generate(prompts(1), Sampling())
    assert text.status == "io_error" and "max_completion_tokens" in text.error and len(server.bodies) == 2


def test_tokens_of_labels_that_are_refused_are_left_out(server):
    server.models[0]["owned_by"] = "vllm"
    server.others["/tokenize"] = lambda body: {"tokens": [ord(c) for c in body["prompt"].strip()]}
    refusing(server, "logprob_token_ids")
    backend = OpenAIBackend.load(server.url, "m", retries=0)
    assert backend.describe["label_probabilities"] == "logprob_token_ids"
    ((answer,),) = backend.probabilities(prompts(1), DIGITS)
    assert answer.status == "ok" and backend.describe["label_probabilities"] == "top_logprobs 20"


@pytest.mark.parametrize(
    ("code", "words"), [(401, "temperature"), (404, "The model Seed-1.5-VL does not exist: seed"), (429, "seed")]
)
def test_other_failures_change_nothing(code, words):
    sent = {"temperature": 0.0, "seed": 0, "extra_body": {}}
    assert refused_parameter(ServerFault(code, code, words), sent) is None


def test_names_inside_of_other_names_are_not_taken_for_them():
    sent = {"max_tokens": 5, "top_p": 1.0, "extra_body": {"top_k": -1}}
    assert refused_parameter(ServerFault(400, 400, "max_completion_tokens is too large"), sent) is None
    assert refused_parameter(ServerFault(400, 400, "stop_path is wrong"), sent) is None
    assert refused_parameter(ServerFault(400, 400, "topK: out of range"), sent) == "top_k"
    assert adjusted(sent, {"top_k"}) == {"max_tokens": 5, "top_p": 1.0, "extra_body": {}}
