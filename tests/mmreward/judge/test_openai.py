"""The OpenAI backend against a small server that follows the documented form: what is asked, and what is read."""

import asyncio
import threading

import pytest
from PIL import Image

from mmreward.judge.backends import openai_pictures
from mmreward.judge.backends.backend import Sampling
from mmreward.judge.backends.openai import OpenAIBackend
from mmreward.judge.backends.openai_pictures import broken
from mmreward.judge.prompt import Fixed, Given, Prompt

DIGITS = ("0", "1", "2", "3", "4", "5")


def load(server, **options):
    return OpenAIBackend.load(server.url, "m", **{"timeout": 60.0, "retries": 0, **options})


def question(text="How good is it?"):
    return Prompt((Fixed(text),))


def group(edited=2, questions=2):
    """One source, several candidates, several questions about each."""
    noise = [Image.effect_noise((24, 16), 90 + i).convert("RGB") for i in range(edited + 1)]
    leaves = tuple(question(f"Question {i}") for i in range(questions))
    branches = tuple(Prompt((Fixed("after:"), image), leaves) for image in noise[1:])
    return Prompt((Fixed("Instruction: "), Given("make it blue"), Fixed("\nbefore:"), noise[0]), branches), noise


def test_a_label_is_every_token_that_reads_like_it(server):
    server.answer = lambda body: server.completion(
        "4", {"4": 0.4, " 4": 0.1, "3": 0.2, "\u2581x": 0.24, "\u01205": 0.05, "y": 0.001}
    )
    ((answer,),) = load(server).probabilities([question()], DIGITS)
    assert answer.status == "ok" and answer.mass == pytest.approx(0.75)
    assert answer.probabilities == pytest.approx((0, 0, 0, 0.2, 0.5, 0.05))


def test_the_drawn_token_counts_once_though_it_is_not_among_the_listed(server):
    def answer(body):
        made = server.completion("2", {"4": 0.6, "3": 0.3, "x": 0.001})
        made["choices"][0]["logprobs"]["content"][0] |= {"token": "2", "logprob": -3.0}
        return made

    server.answer = answer
    ((found,),) = load(server).probabilities([question()], DIGITS)
    assert found.probabilities[2] == pytest.approx(0.0498, abs=1e-4) and found.mass == pytest.approx(0.9498, abs=1e-4)


@pytest.mark.parametrize("owner", ["someone", "vllm", "sglang"])
def test_every_sampling_parameter_is_sent(server, owner):
    server.models[0]["owned_by"] = owner
    backend = load(server)
    backend.probabilities([question()], DIGITS)
    backend.generate([question()], Sampling(max_new_tokens=7, temperature=0.5, top_p=0.8, seed=3, top_k=20))
    first, second = server.bodies
    common = {"frequency_penalty": 0.0, "presence_penalty": 0.0, "model": "m"}
    asked = {"temperature": 1.0, "top_p": 1.0, "seed": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}
    assert first.items() >= (common | asked).items()
    assert second.items() >= (common | {"temperature": 0.5, "top_p": 0.8, "seed": 3, "max_tokens": 7}).items()
    assert ("repetition_penalty" in first) == (owner != "someone")  # plain servers refuse what they do not know
    assert (first.get("top_k"), second.get("top_k")) == ((None, None) if owner == "someone" else (-1, 20))
    assert "logprobs" not in second


def test_passes_have_seeds_and_texts_their_end(server):
    server.answer = lambda body: server.completion(f"seed {body['seed']}", finish="length" if body["seed"] else "stop")
    backend = load(server)
    schema = {"type": "object", "properties": {"score": {"type": "number"}}}
    prompt, _ = group(2, 1)
    ((one, other),) = backend.generate([prompt], Sampling(seed=0, passes=3, temperature=1, schema=schema))
    assert [text.text for text in one] == [text.text for text in other] == ["seed 0", "seed 1", "seed 2"]
    assert [text.finished for text in one] == [True, False, False]
    assert server.bodies[0]["response_format"]["json_schema"]["schema"] == schema


def test_each_image_is_encoded_once_and_arrives_as_it_is(server, monkeypatch):
    encode, count = openai_pictures._encode, []
    monkeypatch.setattr(openai_pictures, "_encode", lambda image: count.append(1) or encode(image))
    backend = load(server)
    prompt, noise = group(edited=2, questions=3)
    other, _ = group(edited=1)
    (answers, _) = backend.probabilities([prompt, Prompt((noise[0],), other.branches)], DIGITS)
    assert len(answers) == 6 and len(count) == 4
    backend.probabilities([prompt], DIGITS)
    assert len(count) == 4
    for body in (body for body in server.bodies if "Question 2" in str(body)):
        sent = server.images_of(body)
        assert sent[0].tobytes() == noise[0].tobytes() and sent[1].tobytes() in [one.tobytes() for one in noise[1:]]


def test_what_a_group_shares_comes_first_and_is_the_same_in_each_request(server):
    prompt, _ = group()
    load(server).probabilities([prompt], DIGITS)
    contents = [body["messages"][0]["content"] for body in server.bodies]
    assert len(contents) == 4 and all(content[:2] == contents[0][:2] for content in contents)
    assert contents[0][0]["text"] == "Instruction: make it blue\nbefore:"


def test_no_more_requests_are_open_than_allowed(server):
    three = threading.Event()

    def answer(body):
        if server.most >= 3:
            three.set()
        three.wait(10)  # the first requests are open until three of them are
        return server.completion("4", {"4": 1.0})

    server.answer, server.pause = answer, 0.03  # in which a fourth would show
    prompts = [group()[0] for _ in range(4)]
    found = load(server, concurrency=3).probabilities(prompts, DIGITS)
    assert [len(answers) for answers in found] == [4] * 4 and len(server.bodies) == 16
    assert server.most == 3


def test_answers_come_in_the_order_of_the_questions(server):
    def answer(body):
        server.pause = 0.02 * (len(server.bodies) % 3)
        digit = body["messages"][0]["content"][-1]["text"][-1]
        return server.completion(digit, {digit: 1.0})

    server.answer = answer
    prompts = [Prompt((Fixed("all"),), tuple(question(str(i)) for i in order)) for order in ((0, 1, 2), (5, 4), (3,))]
    found = load(server).probabilities(prompts, DIGITS)
    assert [[answer.probabilities.index(1.0) for answer in one] for one in found] == [[0, 1, 2], [5, 4], [3]]


def test_it_can_be_called_from_a_running_event_loop_and_from_threads(server):
    backend, found = load(server), []

    async def inside():
        return backend.probabilities([question()], DIGITS)

    def thread():
        found.append(backend.probabilities([question()], DIGITS)[0][0])

    ((answer,),) = asyncio.run(inside())
    threads = [threading.Thread(target=thread) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == [answer] * 3 and answer.status == "ok"
    assert backend.probabilities([], DIGITS) == []


@pytest.mark.parametrize(
    "text",
    [
        "<|im_end|>",
        "<|image_pad|>",
        "</s>",
        "<image>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<start_of_turn>",
        "<\uff5cUser\uff5c>",
    ],
)
def test_control_tokens_of_others_are_broken_and_ours_are_not(server, text):
    backend = load(server)
    backend.probabilities([Prompt((Fixed("<b>"), Given(f"a {text} b")))], DIGITS)
    sent = server.bodies[0]["messages"][0]["content"][0]["text"]
    assert text not in sent and sent.replace("\u200b", "") == f"<b>a {text} b" and sent.startswith("<b>")
    assert "zero-width" in backend.describe["given_text"]


def test_ordinary_text_stays_as_it_is():
    text = "replace a < b by a<3, [see 1], {json: [1, 2]} and 3 > 2"
    assert broken(text) == text


def test_images_can_go_as_files_that_are_gone_afterwards(server, tmp_path):
    seen = []

    def answer(body):
        seen.extend(server.images_of(body))
        return server.completion("4", {"4": 1.0})

    server.answer = answer
    prompt, noise = group(1, 1)
    backend = load(server, files=tmp_path, uuids=True)
    backend.probabilities([prompt], DIGITS)
    assert [image.tobytes() for image in seen] == [image.tobytes() for image in noise]
    parts = [part for part in server.bodies[0]["messages"][0]["content"] if part["type"] == "image_url"]
    assert all(part["image_url"]["url"].startswith(tmp_path.as_uri()) for part in parts)
    assert len({part["uuid"] for part in parts}) == 2 and list(tmp_path.iterdir()) == []
    assert backend.describe["images"] == "PNG files"
    with pytest.raises(ValueError, match="no folder"):
        load(server, files=tmp_path / "nowhere")


def test_large_images_are_made_smaller_where_asked_for_and_provenance_says_so(server):
    backend = load(server, pixels=20000)
    backend.probabilities([Prompt((Image.new("RGB", (400, 200), "red"), Image.new("RGB", (10, 1))))], DIGITS)
    assert [image.size for image in server.images_of(server.bodies[0])] == [(200, 100), (10, 1)]
    assert backend.describe["pixels"] == 20000


def test_vllm_is_asked_for_the_tokens_of_the_labels(server):
    server.models[0]["owned_by"] = "vllm"
    server.others["/version"] = lambda _: {"version": "0.33.0"}
    server.others["/tokenize"] = lambda body: {"tokens": [ord(c) for c in body["prompt"].replace(" ", "_")]}
    backend = load(server)
    backend.check_labels(DIGITS)
    backend.probabilities([question()], DIGITS)
    assert server.bodies[0]["logprob_token_ids"] == [ord(digit) for digit in DIGITS]
    assert backend.describe["label_probabilities"] == "logprob_token_ids"
    assert backend.describe["server"] == "vllm 0.33.0"
    with pytest.raises(ValueError, match="'ten' is not a single token"):
        backend.check_labels(("ten", "1"))
    load(server, label_ids=False).probabilities([question()], DIGITS)
    assert "logprob_token_ids" not in server.bodies[1]


def test_labels_that_may_share_their_first_token_are_refused(server):
    backend = load(server)
    backend.check_labels(DIGITS)
    for labels in (("1", "10"), ("a", " a"), ("", "b")):
        with pytest.raises(ValueError, match="label"):
            backend.check_labels(labels)


def test_an_answer_that_has_begun_is_gone_on_from_where_the_server_can(server):
    prompt = Prompt((Fixed("How good?"),), answer="Score: ")
    ((answer,),) = load(server).probabilities([prompt], DIGITS)
    assert answer.status == "error" and not server.bodies
    assert not load(server).takes_prefix
    server.models[0]["owned_by"] = "vllm"
    ((answer,),) = load(server).probabilities([prompt], DIGITS)
    assert answer.status == "ok" and server.bodies[0]["messages"][1] == {"role": "assistant", "content": "Score: "}
    assert load(server).takes_prefix
    assert server.bodies[0]["continue_final_message"] and server.bodies[0]["add_generation_prompt"] is False


def test_thinking_is_switched_off_in_the_template(server):
    load(server, thinking=False).probabilities([question()], DIGITS)
    load(server).probabilities([question()], DIGITS)
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in server.bodies[1]
