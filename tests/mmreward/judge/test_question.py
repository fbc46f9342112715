"""Question sets and the prompt trees that they make."""

import pytest
from PIL import Image

from mmreward.judge.prompt import Fixed, Given
from mmreward.judge.question import QuestionSet, load_questions, question_names

SOURCE, FIRST, SECOND = (Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue"))
SMALL = {
    "version": "mine-1",
    "labels": ["0", "1"],
    "shared": "Do {instruction} {criteria}to {source}",
    "criteria": "({criteria}) ",
    "candidate": "it is {edited}",
    "questions": {"instruction_following": "Done?\n", "quality": "Clean?\n"},
}


def test_a_prompt_shares_the_source_and_branches_by_candidate_and_question():
    prompt = QuestionSet.model_validate(SMALL).prompt("x", SOURCE, [FIRST, SECOND])
    assert prompt.leaves == 4
    paths = list(prompt.paths())
    shared = (Fixed("Do "), Given("x"), Fixed(" "), Fixed("to "), SOURCE)
    assert paths[1] == (*shared, Fixed("it is "), FIRST, Fixed("Clean?"))
    assert [path[-2] for path in paths] == [FIRST, FIRST, SECOND, SECOND]


def test_criteria_come_in_where_an_edit_has_some():
    pieces = QuestionSet.model_validate(SMALL).prompt("x", SOURCE, [FIRST], "keep {it}").pieces
    assert pieces[3:6] == (Fixed("("), Given("keep {it}"), Fixed(") "))


def test_braces_in_an_instruction_are_data():
    prompt = QuestionSet.model_validate(SMALL).prompt("{source}", SOURCE, [FIRST])
    assert prompt.pieces[1] == Given("{source}")


@pytest.mark.parametrize("name", question_names())
def test_bundled_sets_load_and_ask_for_all_dimensions(name):
    questions = load_questions(name)
    assert questions.version == name
    assert list(questions.questions) == ["instruction_following", "preservation", "quality"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidate": "nothing"}, "candidate must hold"),
        ({"shared": "{instruction}{source}{edited}"}, "shared must hold"),
        ({"labels": ["0", "0"]}, "labels must differ"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_set_is_refused_with_the_reason(tmp_path, change, message):
    import yaml

    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SMALL | change))
    with pytest.raises(ValueError, match=message):
        load_questions(path)


def test_an_unknown_name_suggests_the_nearest_and_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'edit-1'"):
        load_questions("edit1")
    with pytest.raises(ValueError, match="gone.yaml cannot be read"):
        load_questions(tmp_path / "gone.yaml")
