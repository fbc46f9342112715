"""The doctor against servers and rewards whose faults are known."""

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mmreward.bench.doctor import examine
from mmreward.bench.doctor_reward import reward_checks
from mmreward.bench.known_edits import TASKS, invisibly_changed, known_tasks
from mmreward.edit import ImageError
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
    assert found["image order"].found.endswith(f"{TASKS} score above the two images exchanged")
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
    assert found[-1].name == "question" and "limit-mm-per-prompt" in found[-1].found
    assert found[-1].command.startswith("vllm serve m ")


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


def readable(edit):
    try:
        return edit.image("source") and edit.image("edited")
    except ImageError:
        return None


class Comparing(Reward):
    """A reward that ranks the edits of one source, by how much they changed; alone an edit has no rank."""

    name, dims = "comparing", ()

    def score(self, edits):
        good = [edit for edit in edits if edit.instruction.strip() and readable(edit)]
        return [
            self._one(edit, [other for other in good if readable(edit) and other.group == edit.group]) for edit in edits
        ]

    def _one(self, edit, group):
        if edit not in group:
            return Score.failed("not_applicable" if readable(edit) else "io_error", "cannot be compared")
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


class Careful(Reward):
    """A reward that is well: right edits 1, all else what `other` gives. Each test spoils one thing."""

    name, dims = "careful", ()

    def score(self, edits):
        return [self.one(edit) for edit in edits]

    def one(self, edit):
        if not edit.instruction.strip():
            return Score.failed("not_applicable", "the instruction is empty")
        try:
            images = pixels(edit.image("source")), pixels(edit.image("edited"))
        except ImageError as error:
            return Score.failed(error.status, error.message)
        return Score(1.0 if images in self.right else self.other(*images))

    def other(self, source, edited):
        return 0.1


@pytest.fixture
def careful(right):
    Careful.right = right
    return Careful


def statuses(reward, **options):
    return {check.name: check.status for check in reward_checks(reward, **options)}


def test_a_reward_that_is_well_passes_all(careful):
    assert set(statuses(careful()).values()) == {"ok"}


def test_an_invisible_change_that_is_worth_something_is_found(careful):
    class Exact(careful):
        def other(self, source, edited):
            return 0.1 if source == edited else 0.13

    found = {check.name: check for check in reward_checks(Exact())}
    assert found["invisible change"].status == "failed" and "is worth 0.030" in found["invisible change"].found
    assert {check.status for name, check in found.items() if name != "invisible change"} == {"ok"}


def test_a_copy_that_scores_high_is_a_warning(careful):
    class Kind(careful):
        def other(self, source, edited):
            return 0.6

    found = {check.name: check for check in reward_checks(Kind())}
    assert found["untouched copy"].status == "warning" and "up to 0.600" in found["untouched copy"].found


@pytest.mark.parametrize("name", ["source", "edited"])
def test_an_image_that_cannot_be_read_must_not_raise(careful, name):
    class Trusting(careful):
        def one(self, edit):
            edit.image(name)
            return super().one(edit)

    found = {check.name: check for check in reward_checks(Trusting())}
    assert found["bad rows"].status == "failed" and "ImageError" in found["bad rows"].found
    assert f"{name} missing, {name} broken, {name} cut off" in found["bad rows"].advice


def test_a_bad_row_must_not_move_the_row_beside_it(careful):
    class Ranked(careful):
        def score(self, edits):
            share = sum(score.ok for score in super().score(edits)) / len(edits)
            return [Score(score.overall * share) if score.ok else score for score in super().score(edits)]

    found = {check.name: check for check in reward_checks(Ranked())}
    assert found["bad rows"].status == "failed" and "the good row beside them: 0." in found["bad rows"].advice


def test_a_score_for_an_image_that_cannot_be_read_is_found(careful):
    class Invents(careful):
        def one(self, edit):
            score = super().one(edit)
            return Score(0.5) if score.status == "io_error" else score

    found = {check.name: check for check in reward_checks(Invents())}
    assert (
        found["bad rows"].found.startswith("6 of ")
        and "edited broken: ok in place of io_error" in found["bad rows"].advice
    )


def test_a_reward_that_does_not_look_at_the_source_may_score_without_it(careful):
    edited_alone = {pixels(task.right.image("edited")) for task in known_tasks()}

    class Blind(careful):
        def one(self, edit):
            score = super().one(replace(edit, source=edit.edited))
            return Score(1.0) if score.ok and pixels(edit.image("edited")) in edited_alone else score

    assert statuses(Blind())["bad rows"] == "ok"


def test_dimensions_without_an_overall_are_compared_by_their_mean(careful):
    class Dimensions(careful):
        dims, has_overall = ("following", "quality"), False

        def one(self, edit):
            score = super().one(edit)
            dims = {"following": score.overall, "quality": score.overall}
            return Score(float("nan"), dims, has_overall=False) if score.ok else score

    assert set(statuses(Dimensions()).values()) == {"ok"}


def test_a_reward_that_needs_a_known_good_result_is_given_one():
    found = {check.name: check for check in examine("target")}
    assert {check.status for check in found.values()} == {"ok"}, found


def test_a_member_that_need_not_apply_may_be_skipped():
    class Never(Careful):
        def one(self, edit):
            return Score.failed("not_applicable", "no text in the image")

    assert statuses(Never(), optional=True) == {"scores": "skipped"}
    assert statuses(Never()) == {"scores": "failed"}


def test_an_invisible_change_is_invisible():
    image = Image.effect_noise((50, 40), 80).convert("RGB")
    change = np.asarray(invisibly_changed(image)).astype(int) - np.asarray(image)
    assert np.abs(change).max() == 1 and (change != 0).any(axis=2).mean() <= 0.01
    for flat in (0, 255):
        assert np.asarray(invisibly_changed(Image.new("RGB", (20, 20), (flat,) * 3))).std() > 0


def test_every_member_of_a_combination_is_examined_and_then_the_whole(judge, tmp_path):
    file = tmp_path / "both.yaml"
    overall = "{method: base_and_bonus, base: judge, bonus: {preservation: 0.5}}"
    members = f"{{judge: 'openai:{judge.url}#m?retries=0', pixels: pixels}}"
    file.write_text(f"members: {members}\ndims: {{preservation: {{pixels: 1}}}}\noverall: {overall}\n")
    found = list(examine(str(file)))
    parts = {part: [check.name for check in found if check.part == part] for part in ("judge", "pixels", "")}
    assert parts["judge"][:3] == ["server", "model", "question"] and "colour order" in parts["judge"]
    assert parts["pixels"][0] == parts[""][0] == "scores" and "bad rows" in parts["pixels"]
    assert len(found) == sum(map(len, parts.values()))
    assert "right edits" not in parts["pixels"] and "untouched copy" in parts[""]  # of pixels, the whole is asked
    assert {check.status for check in found} == {"ok"}, found


def test_a_member_whose_server_does_not_answer_is_a_finding(tmp_path):
    file = tmp_path / "gone.yaml"
    file.write_text("members: {judge: 'openai:http://127.0.0.1:9/v1#m'}\noverall: {method: minimum, of: [judge]}\n")
    (check,) = examine(str(file))
    assert (check.name, check.status) == ("server", "failed") and "'judge'" in check.advice


def test_a_published_judge_behind_a_server_is_examined_as_such(judge):
    spec = f"editscore:A/B?server={judge.url}#m&retries=0&way=expected"
    found = {check.name: check.status for check in examine(spec)}
    assert list(found)[:3] == ["server", "model", "question"] and set(found.values()) == {"ok"}, found


def test_parameters_that_the_server_refuses_are_said(judge):
    answer = judge.answer

    def refuses(body):
        if "temperature" in body:
            return 400, {"error": {"message": "Unsupported parameter: 'temperature'"}}, {}
        return answer(body)

    judge.answer = refuses
    found = findings(judge)["parameters"]
    assert found.status == "warning" and found.found == "without temperature"


def test_the_bundled_models_and_their_combination_are_well():
    found = list(examine("recommended"))
    assert {check.part for check in found} == {"judge", "clip", "pixels", ""}
    assert {"label mass", "batch and single"} <= {check.name for check in found if check.part == "judge"}
    assert {check.status for check in found} == {"ok"}, found
