"""A backend that follows a script: what it answers is known, and what it was asked is kept."""

import pytest
from PIL import Image

from mmreward.judge.backends.backend import Text
from mmreward.judge.labels import Answer
from mmreward.judge.prompt import Fixed, Given


class Asked:
    """One question as the model sees it: our text, the text of others, the images in order."""

    def __init__(self, path):
        self.fixed = "".join(piece.text for piece in path if isinstance(piece, Fixed))
        self.given = [piece.text for piece in path if isinstance(piece, Given)]
        self.images = [piece for piece in path if isinstance(piece, Image.Image)]


class Scripted:
    """`likely(asked)` gives probabilities of the labels or an Answer, `write(asked, number of the pass)` a text or a
    Text; `prompts` are those of each call, `samplings` of each call that wrote.
    """

    describe = {"backend": "scripted", "revision": "1"}

    def __init__(self, likely=None, write=None):
        self.likely, self.write = likely, write
        self.prompts, self.samplings = [], []

    def check_labels(self, labels):
        if any(len(label) > 3 for label in labels):
            raise ValueError(f"labels must be single tokens, got {list(labels)}")

    def probabilities(self, prompts, labels):
        self.prompts.append(list(prompts))
        return [[self._answer(path) for path in prompt.paths()] for prompt in prompts]

    def _answer(self, path):
        found = self.likely(Asked(path))
        return found if isinstance(found, Answer) else Answer(tuple(found), float(sum(found)))

    def generate(self, prompts, sampling):
        self.prompts.append(list(prompts))
        self.samplings.append(sampling)
        return [
            [[self._text(path, number) for number in range(sampling.passes)] for path in prompt.paths()]
            for prompt in prompts
        ]

    def _text(self, path, number):
        found = self.write(Asked(path), number)
        return found if isinstance(found, Text) else Text(found)


@pytest.fixture(scope="session")
def scripted():
    return Scripted


@pytest.fixture(scope="session")
def picture():
    """Makes a small image of one colour."""
    return lambda colour: Image.new("RGB", (8, 8), colour)
