"""Reading the words of published judges out of code that is never run."""

import pytest

from mmreward.judge.checkpoints.texts import digest_of, package_folder, read_texts

CODE = '''
import os
raise SystemExit("this file was run")
PLAIN = """one
{prompt}"""
JOINED = ("two " "parts" + " and a sum")
instruction = ""
PLACES = "braces {\\n" + f"then {instruction}\\n"
NUMBER = 3
CALLED = os.getenv("x")
def build(prompt):
    inner = "inside"
    return inner
'''


def test_constants_are_read_and_nothing_is_run(tmp_path):
    (tmp_path / "words.py").write_text(CODE)
    names = ("words.py:PLAIN", "words.py:JOINED", "words.py:PLACES", "words.py:build.inner")
    texts = read_texts(tmp_path, names, "")
    assert texts.values == ("one\n{prompt}", "two parts and a sum", "braces {\nthen {instruction}\n", "inside")
    assert not texts.published and texts.about.startswith("prompt given by user, ")
    known = read_texts(tmp_path / "words.py", names, digest_of(texts.values))
    assert known.published and known.about.startswith("as published, from words.py (sha256:")


def test_code_blocks_of_markdown_and_yaml(tmp_path):
    (tmp_path / "README.md").write_text("# Title\n```python\nA = 'first'\n```\ntext\n```bash\nB = 'no'\n```\n")
    assert read_texts(tmp_path, ["README.md:A"], "").values == ("first",)
    with pytest.raises(ValueError, match="no text 'B'"):
        read_texts(tmp_path, ["README.md:B"], "")
    (tmp_path / "own.yaml").write_text("A: mine\nB: 3\n")
    assert read_texts(tmp_path / "own.yaml", ["README.md:A"], "").values == ("mine",)


@pytest.mark.parametrize("name", ["NUMBER", "CALLED", "gone"])
def test_what_is_no_text_is_named(tmp_path, name):
    (tmp_path / "words.py").write_text(CODE)
    with pytest.raises(ValueError, match=f"no text '{name}'"):
        read_texts(tmp_path, [f"words.py:{name}"], "")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="no prompt file or folder .* A in words.py"):
        read_texts(tmp_path / "gone", ["words.py:A"], "")
    with pytest.raises(ValueError, match="cannot be read"):
        read_texts(tmp_path, ["words.py:A"], "")
    (tmp_path / "words.py").write_text("A = (")
    with pytest.raises(ValueError, match="neither Python"):
        read_texts(tmp_path, ["words.py:A"], "")
    with pytest.raises(ValueError, match="pip install --no-deps no_such_package_here"):
        package_folder("no_such_package_here", "X")
