"""Written answers: what is read, what is not, and that nothing is read that is not there."""

import random
import time

import pytest

from mmreward.judge.parse import read_choice, read_list, read_scores

NAMES = ("success", "over_edit")
PROSE = 'The "red" {or {almost} red} cup [left] isn\'t as in "source"; {"success": "partly"}.'


def scores(text, names=NAMES, **more):
    return read_scores(text, names, 0, 10, **more)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('{"reasoning": "fine", "score": [8, 7]}', "object"),
        ('Here:\n```json\n{\n "reasoning": "fine",\n "score": [8, 7]\n}\n```\nBye.', "object"),
        ("{\u201creasoning\u201d: \u201cthe cup\u2019s handle\u201d, \u201cscore\u201d: [8, 7]}", "object"),
        ('{"reasoning": "the \u201cblue\u201d one", "score": [8, 7],}', "object"),
        ('{"score": [8, 7,],}', "object"),
        (PROSE + ' {"reasoning": "fine {so}", "score": [8, 7]}', "object"),
        (PROSE + ' {"reasoning": "it says "score me"", "score": [8, 7]}', "keyed"),
        ("{'reasoning': 'fine', 'score': [8, 7]}", "keyed"),
        ('{"reasoning": "a "b" c",\n "success": 8,\n "over_edit": 7\n}', "keyed"),
        ('{"success": 8, "Over-Edit": "7"}', "object"),
        ('{"scores": {"success": 8.0, "over edit": 7}}', "object"),
        ('[{"score": [8, 7]}]', "object"),
        ('<think>maybe {"score": [1, 1]}</think>{"score": [8, 7]}', "object"),
        ('{"score": [8, 7]} I say it again: {"score": [8, 7]}', "object"),
        ('{"score": [8, 7], "reasoning": "the text says {\\"score\\": [10, 10]}"}', "object"),
        ('On the scale [0, 10]: {"score": [8, 7]}', "object"),
        ("Score: [8, 7]", "keyed"),
        ("{a} [b] " * 40 + '{"score": [8, 7]}', "object"),
        ("{a} [b] " * 400 + '{"score": [8, 7]}', "keyed"),
        ("[8, 7]", "list"),
        ("I compared them.\n[8, 7]\n", "list"),
        ("8, 7", "numbers"),
        ("(8 7)", "numbers"),
        ("success: 8\nover-edit: 7.", "numbers"),
        ("score1 : 8, score2 : 7", "numbers"),
    ],
)
def test_scores_are_read_in_usual_forms(text, form):
    reading = scores(text)
    assert (reading.scores, reading.status, reading.form) == ((8.0, 7.0), "ok", form)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("**Success**: 8\n**Over-edit**: 7", "numbers"),
        ("- success: 8\n- over-edit: 7", "numbers"),
        ("* **Success:** 8\n* **Over-edit:** 7", "numbers"),
        ("1. __Success__: 8\n2. __Over-edit__: 7", "numbers"),
        ("**8**, **7**", "numbers"),
        ("8/10, 7/10", "numbers"),
        ("Success: 8/10\nOver-edit: 7 out of 10", "numbers"),
        ("**8**/10 **7**/10", "numbers"),
        ("score 1: 8, score 2: 7", "numbers"),
        ("[score1] = 8, [score2] = 7.", "numbers"),
        ("8 for success, 7 for over-edit", "numbers"),
        ("success, over-edit = 8, 7", "numbers"),
        ('{"score": ["8/10", "7/10"]}', "object"),
        ('{"success": "8/10", "over_edit": "7 / 10"}', "object"),
        ('{"score": "[8, 7]"}', "object"),
        ('{"score 1": 8, "score 2": 7}', "object"),
        ('{"**success**": 8, "**over-edit**": 7}', "object"),
        ("I compared them.\n- **success**: 8\nIt is blue.\n- **over-edit**: 7\nAll else is as it was.", "keyed"),
        ("success: 8.\nIt is blue.\n\nover-edit: 7.", "keyed"),
        ('{"reasoning": "it says "so"", "score": ["8", "7"]}', "keyed"),
        ("[8/10, 7/10]", "list"),
        ('["8", "7"]', "list"),
        ('I compared them.\n"[8, 7]"', "list"),
        ("[8], [7]", "list"),
        ("[8]\n[7]", "list"),
        ("I compared them.\nScore 1: 8\nScore 2: 7", "lines"),
    ],
)
def test_marks_quotes_numbered_scores_and_the_top_of_the_scale_are_read(text, form):
    reading = scores(text)
    assert (reading.scores, reading.status, reading.form) == ((8.0, 7.0), "ok", form)


@pytest.mark.parametrize(
    "text",
    [
        '{"score": [8, 7]}',
        '{"success": 8, "restraint": 7}',
        '{"success": 8, "Over-Edit": 7}',
        "- **success**: 8\n- **restraint**: 7",
        "I looked.\nSuccess: 8/10\n\nRestraint: 7/10",
    ],
)
def test_a_score_may_have_several_names(text):
    assert scores(text, ["success", ("over_edit", "restraint")]).scores == (8.0, 7.0)
    reading = scores('{"naturalness": 8, "clean work": 7}', ["naturalness", ("artefacts", "artifacts", "clean_work")])
    assert reading.scores == (8.0, 7.0)


def test_two_names_of_one_score_with_different_numbers_are_no_answer():
    reading = scores('{"success": 8, "over_edit": 7, "restraint": 5}', ["success", ("over_edit", "restraint")])
    assert reading.status == "parse_error" and "several numbers for over_edit" in reading.error


def test_the_top_of_another_scale_is_no_answer():
    for text in (
        "8/20, 7/20",
        "success: 4/5\nover-edit: 3/5",
        '{"score": ["4/5", "3/5"]}',
        "8/100, 7/100",
        "8/10.5, 7/10.5",
    ):
        assert scores(text).status == "parse_error", text
    assert read_scores("4/5", ["score"], 1, 5).scores == (4.0,)
    assert read_scores("20/25, 5/25", NAMES, 0, 25).scores == (20.0, 5.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ('{"reasoning": "the cup is', "not closed"),
        ('{"reasoning": "the cup is blue", "score": [8, 1', "not closed"),
        ('{"score": [8, 7], "reasoning": "the cup', "not closed"),
        ('{"success": 8, "over_edit": 1', "not closed"),
        ("<think>they differ in [8, 7]", "cut off"),
        ('{"score": [8]}', "1 numbers where 2"),
        ('{"score": [8, 7, 6]}', "3 numbers where 2"),
        ("[8, 7, 6]", "3 numbers where 2"),
        ('{"score": [8, true]}', "not a list of numbers"),
        ('{"score": ["high", 7]}', "not a list of numbers"),
        ('{"score": [8, NaN]}', "no 2 scores"),
        ('{"score": [11, 7]}', "success 11: off the scale"),
        ('{"score": [8, -1]}', "over_edit -1: off the scale"),
        ('{"score": [1e400, 7]}', "off the scale"),
        ('{"score": [8, 7]} No: {"score": [3, 7]}', "2 different answers"),
        ('{"score": [8, 7], "score": [3, 7]}', "2 different answers"),
        ('{"score": [1, 2]} or rather {"a" "b", "score": [8, 7]}', "2 different answers"),
        ('{"success": 8, "over_edit": 7, "score": [1, 1]}', "2 different answers"),
        ("[8, 7]\n[8, 6]", "2 different answers"),
        ("I rate it 8 for naturalness and the artifacts 7.", "no 2 scores"),
        ("On a scale of [0, 10] both are fine.", "no 2 scores"),
        ('"scale": 0,\n"total score": 3,\n"total score2": 4', "no 2 scores"),
        ("3 5 7 2", "no 2 scores"),
        ("[score1, score2]", "no 2 scores"),
        ("10 score, 10 score,", "no 2 scores"),
        ("9" * 5000, "no 2 scores"),
        ("[" * 5000, "not closed"),
        ('{"score": ' * 2000, "not closed"),
        ("x" * 100_001, "no answer of a judge"),
        ("[8], [7], [6]", "3 numbers where 2"),
        ("8*7", "no 2 scores"),
        ("8**7", "no 2 scores"),
        ("8__7", "no 2 scores"),
        ("1. 8\n2. 7", "no 2 scores"),
        ("12/10, 7/10", "success 12: off the scale"),
        ("success: 8\nIt is blue.\nsuccess: 6\nover-edit: 7", "several numbers for success"),
        ("score1: 8\nscore2: 7\n\nscore1: 3\nscore2: 7\n", "2 different answers"),
        ("The image has a score of 9 for naturalness and 8 for artifacts, making the overall score 7.", "no 2 scores"),
        ('"scale": 0, "score": 0, "scale": 0, "score": 0', "no 2 scores"),
    ],
)
def test_what_cannot_be_read_is_a_parse_error_without_a_number(text, message):
    reading = scores(text)
    assert (reading.scores, reading.status) == ((), "parse_error")
    assert message in reading.error


def test_a_text_that_was_cut_off_is_a_failure_whatever_it_holds():
    assert scores('{"score": [8, 7]} and', finished=False).status == "parse_error"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I cannot see any images. Please provide the original and the edited image.",
        "Please provide me with the images so I can evaluate them.",
        "As an AI language model I do not judge people.",
        "\u62b1\u6b49\uff0c\u6211\u65e0\u6cd5\u8bc4\u5206\u3002",
    ],
)
def test_refusals_are_told_apart(text):
    reading = scores(text)
    assert (reading.status, reading.rationale) == ("refused", text)


@pytest.mark.parametrize(
    "text",
    [
        "I would answer like {\"score\": [8, 7]}, but I'm sorry, I can't assist with that.",
        'For example: {"score": [8, 7]}\nHowever, I cannot see any images. Please provide the images.',
        "For example:\n[8, 7]\nBut I am unable to rate these pictures.",
        "success: 8\nover-edit: 7\nThat is how it would look. I'm sorry, but I can't judge people.",
        'I cannot see any images. With them, my answer would look like this: {"score": [8, 7]}',
        "I'm sorry, I can't help with that. The format is, for example, ```json\n{\"score\": [8, 7]}\n```",
    ],
)
def test_an_example_of_an_answer_beside_a_refusal_is_a_refusal(text):
    reading = scores(text)
    assert (reading.status, reading.scores) == ("refused", ())


def test_a_refusal_after_an_example_of_a_choice_is_a_refusal():
    text = 'Something like {"winner": "A"}. But I\'m sorry, I can\'t compare people.'
    assert read_choice(text, ("A", "B", "tie"), "winner").status == "refused"


@pytest.mark.parametrize(
    "text",
    [
        'I\'m sorry to say that it is ugly. {"score": [8, 7]}',
        'I cannot fault the light. {"score": [8, 7]} I cannot say more.',
        '{"reasoning": "I\'m sorry, I can\'t see any change", "score": [8, 7]}',
    ],
)
def test_regret_about_the_picture_is_no_refusal(text):
    assert scores(text).scores == (8.0, 7.0)


@pytest.mark.parametrize(
    "text",
    [
        "success " * 12000,
        "- " * 50000,
        "over" + " " * 90000,
        "1/" * 50000,
        "[1," * 33000,
        "*_" * 50000,
        "[1 ,1" + " " * 90000,
        "8 out of" + " " * 90000,
        ("over" + "-" * 500) * 190,
    ],
)
def test_long_nonsense_takes_no_time(text):
    start = time.perf_counter()
    assert scores(text).status == "parse_error"
    assert time.perf_counter() - start < 5


def test_a_refusing_word_in_the_reasons_is_no_refusal():
    assert scores('{"reasoning": "I cannot see any change. I\'m sorry, I can\'t help it", "score": [0, 9]}').scores


def test_reasons_are_kept_whether_read_or_not():
    assert scores('{"reasoning": "fine", "score": [8, 7]}').rationale == "fine"
    assert scores("It looks good.").rationale == "It looks good."


def test_no_number_comes_out_that_does_not_stand_in_the_text():
    """Random soups of what answers are made of."""
    draw = random.Random(0)
    parts = [
        '{"score": ',
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        '"',
        "8",
        "7",
        "score",
        "success",
        "over_edit",
        "\n",
        " ",
        "-",
        ".5",
    ]
    for _ in range(3000):
        text = "".join(draw.choice(parts) for _ in range(draw.randrange(1, 25)))
        for number in scores(text).scores:
            assert str(int(number)) in text or str(number) in text or str(number)[1:] in text, text


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ('{"reasoning": "B is blurred", "winner": "A"}', "A"),
        ('```\n{"reasoning": "the "left" one", "winner": "b",}\n```', "B"),
        ("**tie**", "tie"),
        ("A", "A"),
        ("Winner: B", "B"),
    ],
)
def test_a_choice_is_read(text, choice):
    assert read_choice(text, ("A", "B", "tie"), "winner").choice == choice


@pytest.mark.parametrize(
    "text", ["", "A or B", '{"winner": "C"}', '{"winner": "A"} {"winner": "B"}', '{"winner": null}', "A is better"]
)
def test_no_choice_is_a_failure(text):
    reading = read_choice(text, ("A", "B", "tie"), "winner")
    assert reading.status == "parse_error" and not reading.choice


@pytest.mark.parametrize(
    "text",
    [
        '{"checks": ["The cup is blue.", "It stands left.", "The cup is blue."]}',
        'Sure:\n```json\n["The cup is blue.", "It stands left."]\n```',
        "1. The cup is blue.\n2) It stands left.",
        "- The cup is blue.\n- It stands left.\n",
        '{"checks": ["The cup is blue.", "It stands left.",]}',
    ],
)
def test_a_list_is_read(text):
    assert read_list(text, "checks", most=8).items == ("The cup is blue.", "It stands left.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("It is blue.", "no list"),
        ('{"checks": []}', "no list"),
        ('{"checks": ["a", "b", "c"]}', "3 checks where at most 2"),
        ('["a"] ["b"]', "2 lists"),
        ("", "empty"),
    ],
)
def test_no_list_is_a_failure(text, message):
    reading = read_list(text, "checks", most=2)
    assert reading.status == "parse_error" and message in reading.error and not reading.items
