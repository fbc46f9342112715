"""Judges that are a prompt and a parser: what they ask, what they read, what is a failure."""

import pytest
import yaml
from PIL import Image

from mmreward import load_reward
from mmreward.judge.backends.backend import Sampling, Text
from mmreward.judge.checkpoints import firm, rational_rewards, unified_reward
from mmreward.judge.checkpoints.plain import with_system
from mmreward.judge.checkpoints.rational_rewards import read_report
from mmreward.judge.checkpoints.texts import Texts
from mmreward.judge.prompt import Given
from mmreward.judge.way import Group

GROUP = Group("make {it} blue", Image.new("RGB", (8, 8)), (Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8))))


class Scripted:
    """Writes texts in the order of prompts and leaves, the same in each pass unless it is a tuple."""

    def __init__(self, *texts):
        self.texts = list(texts)
        self.asked = []

    def generate(self, prompts, sampling):
        self.asked += [path for prompt in prompts for path in prompt.paths()]
        return [[self._next() for _ in range(prompt.leaves)] for prompt in prompts]

    def _next(self):
        text = self.texts.pop(0)
        return [one if isinstance(one, Text) else Text(one) for one in (text if isinstance(text, tuple) else (text,))]


def texts(*values):
    return Texts(values, False, "0" * 64, "test")


def grade(*numbers):
    return f'{{"reasoning": "because", "score": {list(numbers)}}}'


FIRM_WORDS = texts('Executed? {prompt} {{"score": [1]}}', "Consistent? {prompt} ({requirement})")


def test_firm_is_execution_with_consistency_as_a_bonus():
    way = firm.FIRM.make(FIRM_WORDS, Sampling())
    backend = Scripted(grade(5), grade(2), grade(1), grade(5))
    ((first, second),) = way.score([GROUP], backend)
    assert first.overall == pytest.approx(1.0 * (0.6 + 0.4 * 0.4))
    assert second.overall == pytest.approx(0.2)  # nothing done, all kept
    assert first.dims == {"instruction_following": 1.0, "preservation": 0.4}
    assert first.raw == {"passes": 1, "passes_failed": 0, "execution": 5, "consistency": 2}
    assert first.rationale == "execution: because\nconsistency: because"
    source, edited, asked = backend.asked[0]
    assert (source, edited) == (GROUP.source, GROUP.edited[0])
    assert asked == Given('Executed? make {it} blue {"score": [1]}')


@pytest.mark.parametrize(
    ("judge", "dim"), [(firm.EXECUTION, "instruction_following"), (firm.CONSISTENCY, "preservation")]
)
def test_firm_in_parts(judge, dim):
    way = judge.make(texts(FIRM_WORDS.values[judge is firm.CONSISTENCY]), Sampling())
    ((first, second),) = way.score([GROUP], Scripted(grade(4), grade(3)))
    assert first.dims == {dim: 0.8} and first.overall == 0.8 and second.overall == 0.6


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (grade(0), "parse_error"),
        (grade(6), "parse_error"),
        ("", "parse_error"),
        ("I cannot assist with that.", "refused"),
        (Text('{"score": [4', finished=False), "parse_error"),
        (Text(status="timeout", error="no answer"), "timeout"),
    ],
)
def test_firm_answers_that_are_no_grade_are_failures(answer, status):
    way = firm.FIRM.make(FIRM_WORDS, Sampling())
    ((bad, good),) = way.score([GROUP], Scripted(grade(5), answer, grade(5), grade(5)))
    assert bad.status == status and bad.error.startswith("consistency: ") and good.overall == 1.0


def test_passes_are_averaged_and_failed_ones_counted():
    way = firm.EXECUTION.make(texts(FIRM_WORDS.values[0]), Sampling(temperature=1.0, passes=3))
    ((first, second),) = way.score([GROUP], Scripted((grade(5), "?", grade(3)), ("?", "?", "?")))
    assert first.overall == pytest.approx(0.8) and first.raw["passes_failed"] == 1
    assert first.spread.kind == "passes" and first.spread.value == pytest.approx(0.2 * 2**0.5)
    assert second.status == "parse_error"


def test_firm_words_with_braces_or_no_place_are_refused():
    for words, message in (("Executed? {prompt} {score}", "no place"), ("Executed?", "must hold {prompt}")):
        with pytest.raises(ValueError, match=message):
            firm.EXECUTION.make(texts(words), Sampling())


def test_unified_reward_has_the_structure_of_viescore():
    way = unified_reward.JUDGE.make(texts("both { x } {instruction}\n", "alone"), Sampling())
    backend = Scripted(grade(20, 10), grade(25, 25), grade(5, 25), grade(25, 25))
    ((first, second),) = way.score([GROUP], backend)
    assert first.overall == pytest.approx((10 / 25 * 5 / 25) ** 0.5) and second.overall == 1.0
    assert backend.asked[0] == (GROUP.source, GROUP.edited[0], Given("both { x } make {it} blue\n"))
    assert backend.asked[2] == (GROUP.edited[0], Given("alone"))


def report(following="3.5", kept="**4.0**", quality="2.5", text="N/A", more=""):
    return f"""# User Request Analysis
1. The circle should be blue. Score: 9
# Detailed Judgement
1. Text Faithfulness:
## Justification: It is blue, I give 3 or 4.
## Score: {following}
2. Image Faithfulness:
## Justification: fine
## Score: {kept}
3. Physical and Visual Quality:
## Justification: fine
## Score: {quality}
4. Text Rendering:
## Justification: none
## Score: {text}
{more}# Summary: fine
## Score: 1.0
"""


def test_a_report_is_the_mean_of_its_aspects():
    judged = read_report(report())
    assert judged.raw == {"instruction_following": 3.5, "preservation": 4.0, "quality": 2.5}
    assert judged.overall == pytest.approx((10 / 3 - 1) / 3)
    assert judged.dims["preservation"] == 1.0
    assert read_report(report(text="1")).dims["text_rendering"] == 0.0


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (report(following="5"), "Text Faithfulness 5: off the scale"),
        (report(following="-1"), "off the scale"),
        (report(following="3-4"), "has 0 scores"),
        (report(quality="good"), "Physical and Visual Quality has 0 scores"),
        (report().partition("3. Physical")[0], "no score for Physical and Visual Quality, Text Rendering"),
        (report("N/A", "N/A", "N/A", "N/A"), "every aspect is N/A"),
        (report(more="1. Text Faithfulness:\n## Score: 2\n"), "is there twice"),
        ("3.5", "no score for Text Faithfulness"),
    ],
)
def test_reports_that_cannot_be_read(text, error):
    judged = read_report(text)
    assert judged.status == "parse_error" and error in judged.error


def test_rational_rewards_shows_each_image_where_the_text_announces_it():
    words = texts("system", "Do: {request}\nSource <image>\nEdited <image>\nGo. ", "Guide")
    backend = Scripted(report(), Text(report(), finished=False))
    ((first, second),) = rational_rewards.JUDGE.make(words, Sampling()).score([GROUP], backend)
    assert first.ok and second.ok  # cut off behind its summary: all aspects are there
    told = (Given("Do: make {it} blue\nSource "), GROUP.source, Given("\nEdited "), GROUP.edited[0])
    assert backend.asked[0] == (*told, Given("\nGo. \n\nGuide"))
    cut = Text(report().partition("# Summary")[0], finished=False)
    ((first, _),) = rational_rewards.JUDGE.make(words, Sampling()).score([GROUP], Scripted(cut, report()))
    assert first.status == "parse_error" and "cut off" in first.error
    with pytest.raises(ValueError, match="<image> twice"):
        rational_rewards.JUDGE.make(texts("system", "Do: {request}", "Guide"), Sampling())


def test_loading_names_what_is_asked(base, edits, tmp_path):
    folder = base("qwen3_vl")[2]
    names = [place.partition(":")[2] for place in rational_rewards.JUDGE.places]
    words = ['You "judge"\n{%s} édits', "Do: {request}\nSource <image>\nEdited <image>\nGo.", "Guide"]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(dict(zip(names, words))))
    spec = f"published:{folder}?judge=rational-rewards&max_new_tokens=3&prompt={tmp_path / 'own.yaml'}"
    reward = load_reward(spec)
    assert reward.name == f"own prompt in place of rational-rewards:{folder}"
    assert reward.backend.shared.reader.frame.head.startswith(f"<|im_start|>system\n{words[0]}<|im_end|>")
    scores = reward.score(edits)
    assert {score.status for score in scores} == {"parse_error"}
    assert scores[0].provenance["temperature"] == 0.1 and scores[0].provenance["revision"].startswith("sha256:")


def test_wrong_calls_say_what_to_do(base):
    folder = base("qwen3_vl")[2]
    for query, message in (
        ("", "needs .judge=, one of firm"),
        ("?judge=firn", "firm"),
        ("?judge=firm", "github.com/VisionXLab/FIRM-Reward"),
        ("?judge=firm&prompts=x", "unknown option of 'published'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_reward(f"published:{folder}{query}")


def test_a_system_message_keeps_its_quotes():
    import jinja2

    template = with_system("{{ messages[0].content }}|{{ messages[1].content }}", 'say "x"\n{{ no }} \\ é <end>')
    assert jinja2.Template(template).render(messages=[{"role": "user", "content": "y"}]).endswith("\\ é <end>|y")
