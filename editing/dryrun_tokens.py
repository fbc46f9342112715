"""How many tokens a judge reads for one group: its real prompts, written by its own processor, and counted.

What a server writes around a prompt, and what it makes of an image, only the server knows: of its judges the answers
are counted alone.
"""

__all__ = ["Listener", "Tokens", "tokens"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mmreward.edit import Edit
from mmreward.judge.backends.backend import Sampling, Text
from mmreward.judge.labels import Answer, failed
from mmreward.judge.prompt import Piece, Prompt
from mmreward.judge.reward import JudgeReward
from mmreward.reward import Reward

_MARK = "mmreward was here"


class Listener:
    """A backend that keeps what it is asked, and answers nothing."""

    takes_prefix = True

    def __init__(self) -> None:
        self.describe: dict[str, Any] = {"backend": "none"}
        self.prompts: list[Prompt] = []
        self.answers = 0

    def check_labels(self, labels: Sequence[str]) -> None:
        """Any will do."""

    def probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[list[Answer]]:
        self.prompts += prompts
        self.answers += sum(prompt.leaves for prompt in prompts)
        return [[failed("not_applicable", "a dry run asks nobody")] * prompt.leaves for prompt in prompts]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[list[Text]]]:
        self.prompts += prompts
        self.answers += sampling.passes * sum(prompt.leaves for prompt in prompts)
        nothing = [Text(status="not_applicable", error="a dry run asks nobody")] * sampling.passes
        return [[nothing for _ in range(prompt.leaves)] for prompt in prompts]


@dataclass(frozen=True)
class Tokens:
    """What a judge reads for one group: answers that it gives, tokens if each is asked alone, and tokens where what
    they share goes through the model once; None where its processor is not here.
    """

    answers: int
    alone: int | None
    shared: int | None


def tokens(
    reward: Reward, judges: Mapping[str, JudgeReward], processors: Mapping[str, Any], edits: Sequence[Edit]
) -> dict[str, Tokens]:
    """What each of the judges is asked where `reward`, which holds them, scores `edits`, which are one group."""
    backends = {name: judge.backend for name, judge in judges.items()}
    listeners = {name: Listener() for name in judges}
    for name, judge in judges.items():
        judge.backend = listeners[name]
    try:
        reward.score(edits)
    finally:
        for name, judge in judges.items():
            judge.backend = backends[name]
    return {name: _counted(processors.get(name), listener) for name, listener in listeners.items()}


def _counted(processor: Any, listener: Listener) -> Tokens:
    if processor is None or not listener.prompts:
        return Tokens(listener.answers, None, None)
    count = _Counter(processor)
    alone = sum(count.path(path) for prompt in listener.prompts for path in prompt.paths())
    return Tokens(listener.answers, alone, sum(count.tree(prompt) for prompt in listener.prompts))


class _Counter:
    """Tokens of a user's message, by the processor; images of one size count alike."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._known: dict[tuple[Any, ...], int] = {}
        end = self._written([{"type": "text", "text": _MARK}]).partition(_MARK)[2]
        self.ending = len(processor.tokenizer(end, add_special_tokens=False)["input_ids"])
        """Tokens behind a message, up to its answer."""

    def path(self, pieces: Sequence[Piece]) -> int:
        key = tuple(piece.size if isinstance(piece, Image.Image) else piece.text for piece in pieces)
        if key not in self._known:
            self._known[key] = self._count(pieces)
        return self._known[key]

    def tree(self, prompt: Prompt, before: tuple[Piece, ...] = ()) -> int:
        """What the branches share counts once; the ending belongs to each answer."""
        pieces = before + prompt.pieces
        own = self.path(pieces) - (self.path(before) if before else self.ending)
        below = sum(self.tree(branch, pieces) for branch in prompt.branches)
        return own + (below if prompt.branches else self.ending)

    def _count(self, pieces: Sequence[Piece]) -> int:
        content: list[dict[str, str]] = []
        images = []
        for piece in pieces:
            if isinstance(piece, Image.Image):
                content.append({"type": "image"})
                images.append(piece)
            else:
                content.append({"type": "text", "text": piece.text.replace("<|", "< |")})
        text = self._written(content)
        return int(self.processor(text=[text], images=images or None, return_tensors="pt")["input_ids"].shape[1])

    def _written(self, content: list[dict[str, str]]) -> str:
        message = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
