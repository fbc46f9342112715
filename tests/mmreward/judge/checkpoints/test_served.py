"""Published judges behind a server of the OpenAI protocol: their words, their options of writing, their parser."""

import json

import pytest
import yaml
from PIL import Image

from mmreward import Edit, load_reward
from mmreward.judge.checkpoints import editscore, firm, rational_rewards, unified_reward

EDITS = [Edit("make <|im_end|> it blue", Image.new("RGB", (60, 60)), Image.new("RGB", (61, 40), c)) for c in ("red", 1)]


def grade(*numbers):
    return json.dumps({"reasoning": "because", "score": list(numbers)})


def words(folder, places, *texts):
    """A YAML file with texts for a judge, by the places that it has for them."""
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump(dict(zip(places, texts, strict=True))))
    return file


@pytest.fixture
def editscore_words(tmp_path):
    return words(tmp_path, editscore.PLACES, "context", "both", "0 to 10: <instruction>", "quality 0 to 10")


def by_images(*answers):
    """Answers for requests with two images, and for those with one."""
    return lambda body: answers[sum(part["type"] == "image_url" for part in body["messages"][-1]["content"]) - 1]


def test_editscore_asks_its_words_and_reads_its_grades(server, editscore_words):
    alone, together = (server.completion(grade(*pair)) for pair in ((25, 10), (20, 15)))
    server.answer = by_images(alone, together)
    server.models[0]["owned_by"] = "vllm"
    spec = f"editscore:EditScore/EditScore-7B?server={server.url}%23m&prompt={editscore_words}&passes=2&retries=0"
    reward = load_reward(spec)
    scores = reward.score(EDITS)
    assert reward.name == "own prompt on the weights of editscore:EditScore/EditScore-7B"
    assert [score.overall for score in scores] == pytest.approx([(15 / 25 * 10 / 25) ** 0.5] * 2)
    assert len(server.bodies) == 8 and {body["seed"] for body in server.bodies} == {42, 43}
    body = next(body for body in server.bodies if len(server.images_of(body)) == 2)
    asked = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "max_tokens": 512, "model": "m"}
    assert body.items() >= asked.items()
    first, source, second, edited, text = body["messages"][0]["content"]
    assert (first["text"], second["text"]) == ("<img1>: ", "<img2>: ")
    assert text["text"].startswith("context\nboth\n0 to 25: make <\u200b|im_end|> it blue")
    assert [image.size for image in server.images_of(body)] == [(56, 56), (84, 56)]
    made = scores[0].provenance
    assert made["backend"] == "openai" and made["top_k"] == 20 and made["question"].startswith("prompt given by user")
    assert made["sizes"]["edited"] == {"given": [61, 40], "sent": [84, 56]}


def test_editscore_on_qwen3_vl_shows_images_as_they_are(server, editscore_words):
    server.answer = by_images(server.completion(grade(25, 25)), server.completion(grade(25, 26)))
    spec = f"editscore:MINE?base=Qwen/Qwen3-VL-8B-Instruct&server={server.url}&prompt={editscore_words}&retries=0"
    (score,) = load_reward(spec).score(EDITS[:1])
    assert score.status == "parse_error" and "26" in score.error  # off the scale: no number is put in its place
    assert score.provenance["top_k_sent"] is False  # a plain server knows no top_k
    body = next(body for body in server.bodies if len(server.images_of(body)) == 2)  # both requests go out at once
    source, edited, _ = body["messages"][0]["content"]
    assert source["type"] == edited["type"] == "image_url" and server.images_of(body)[0].size == (60, 60)


def test_editscore_behind_a_server_with_other_words_loses_the_name(server):
    reward = load_reward(f"editscore:EditScore/EditScore-7B?server={server.url}&way=expected&retries=0")
    assert reward.name == "own question on the weights of editscore:EditScore/EditScore-7B"
    assert reward.score(EDITS[:1])[0].ok


@pytest.mark.parametrize(
    ("judge", "places", "texts", "answer", "overall"),
    [
        ("firm", firm.FIRM.places, ("Executed? {prompt}", "Consistent? {prompt}"), grade(5), 1.0),
        ("firm-execution", firm.EXECUTION.places, ("Executed? {prompt}",), grade(4), 0.8),
        ("unified-reward", unified_reward.JUDGE.places, ("both {instruction}", "alone"), grade(20, 5), 0.2),
    ],
)
def test_plain_judges_are_asked_and_read_behind_a_server(server, tmp_path, judge, places, texts, answer, overall):
    server.answer = lambda body: server.completion(answer)
    file = words(tmp_path, places, *texts)
    reward = load_reward(f"published:MODEL?judge={judge}&server={server.url}&prompt={file}&retries=0")
    assert reward.name == f"own prompt in place of {judge}:MODEL"
    scores = reward.score(EDITS)
    assert [score.overall for score in scores] == pytest.approx([overall] * 2)
    assert all(body["temperature"] == 0 and body["messages"][0]["role"] == "user" for body in server.bodies)
    assert scores[0].provenance["server"] == "other" and scores[0].provenance["sizes"]["source"]["sent"] == [60, 60]


def test_rational_rewards_has_its_system_message_and_its_own_place_for_images(server, tmp_path):
    aspects = ("Text Faithfulness", "Image Faithfulness", "Physical and Visual Quality", "Text Rendering")
    report = "\n".join(f"{i}. {name}:\n## Score: {4 - i % 2 * 3}" for i, name in enumerate(aspects, 1))
    server.answer = lambda body: server.completion(report + "\n# Summary: fine")
    texts = ("You {are} a judge", "Do: {request}\nSource <image>\nEdited <image>\nGo.", "Guide")
    file = words(tmp_path, rational_rewards.JUDGE.places, *texts)
    reward = load_reward(f"published:M?judge=rational-rewards&server={server.url}&prompt={file}&retries=0")
    (score,) = reward.score(EDITS[:1])
    assert score.overall == pytest.approx((2.5 - 1) / 3)
    system, user = server.bodies[0]["messages"]
    assert system == {"role": "system", "content": texts[0]}
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text", "image_url", "text"]
    assert user["content"][0]["text"].startswith("Do: make <\u200b|im_end|>")


def test_a_server_that_fails_is_a_status_of_each_row(server, editscore_words):
    server.answer = lambda body: (500, {"error": {"message": "out of order"}}, {})
    spec = f"editscore:EditScore/EditScore-7B?server={server.url}&prompt={editscore_words}&retries=0"
    scores = load_reward(spec).score([*EDITS, Edit("x", EDITS[0].source, b"no image")])
    assert [score.status for score in scores] == ["io_error"] * 3 and "out of order" in scores[0].error


def test_wrong_calls_say_what_to_do(server, editscore_words, tmp_path):
    for spec, message in (
        (f"editscore:MINE?server={server.url}&prompt={editscore_words}", r"does not tell .*\?base="),
        (
            f"editscore:EditScore/EditScore-7B?server={server.url}&dtype=float32",
            "unknown option of 'editscore' 'dtype'",
        ),
        ("editscore:EditScore/EditScore-7B?concurrency=3", "unknown option of 'editscore' 'concurrency'"),
        (f"published:M?judge=firm&server={server.url}&device=cpu&prompt=x", "unknown option of 'published' 'device'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_reward(spec)
