"""A vision-language model as judge: expected scores for following, preservation and quality.

    vlm:tiny                                             the bundled judge of the shapes world
    vlm:Qwen/Qwen2.5-VL-7B-Instruct                      any image-text-to-text model of the hub, or its folder
    vlm:FOLDER?question=my-questions.yaml&dtype=bfloat16

Each dimension is a question whose answer is a digit; its score is the expectation over the digits (see
`mmreward.judge.expected`), and

    overall = following x (0.6 + 0.4 preservation) x (0.5 + 0.5 quality)

Edits of one source with one instruction are judged together: what they share goes through the model once. That changes
no score beyond rounding. Images go to the model as they are; its own processor resizes them.
"""

from __future__ import annotations

__all__ = ["VlmReward", "load"]

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmreward.domain import ANY, DOMAINS, check
from mmreward.edit import Edit, ImageError
from mmreward.judge.expected import FLOOR, score_of
from mmreward.judge.question import QuestionSet, load_questions
from mmreward.reward import unknown
from mmreward.score import Score

if TYPE_CHECKING:
    from mmreward.judge.backends.transformers import TransformersBackend

_OPTIONS = ("device", "domain", "dtype", "floor", "pixels", "question", "revision", "tokens")
_GENERAL = "edit-1"


def load(model: str = "", **options: str) -> VlmReward:
    """`vlm:MODEL`: "tiny", a folder or a hub id.

    Options: `question` (name of a bundled question set or path of your own; default: the one that the model's card
    names, else edit-1), `device`, `dtype` (float32, bfloat16, float16; default float32 on a CPU), `revision` of a hub
    id, `pixels` (most pixels of an image), `tokens` (how many go through the model at once, default 8192), `floor`
    (least probability on the labels, default 0.5), `domain` ("any" insists on edits outside of what the model knows).
    """
    for option in options:
        if option not in _OPTIONS:
            raise unknown("option of 'vlm'", option, _OPTIONS)
    if not model:
        raise ValueError("the reward 'vlm' needs a model, such as 'vlm:tiny' or 'vlm:Qwen/Qwen2.5-VL-7B-Instruct'")
    from mmreward.judge.backends.folder import find_model
    from mmreward.judge.backends.transformers import DTYPES, TransformersBackend

    dtype, domain = options.get("dtype"), options.get("domain")
    if dtype is not None and dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if domain is not None and domain not in DOMAINS:
        raise unknown("domain", domain, DOMAINS)
    floor = _floor(options.get("floor"))
    pixels, tokens = _whole("pixels", options.get("pixels")), _whole("tokens", options.get("tokens"))
    source = find_model(model, options.get("revision"))
    questions = load_questions(options.get("question") or source.card.get("question", _GENERAL))
    backend = TransformersBackend.load(
        source, device=options.get("device"), dtype=dtype, pixels=pixels, tokens=tokens or 8192
    )
    return VlmReward(backend, questions, name=model, card=source.card, domain=domain, floor=floor)


def _whole(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"option {name} of 'vlm' must be a whole number from 1 upwards, got {text!r}")
    return int(text)


def _floor(text: str | None) -> float:
    try:
        floor = FLOOR if text is None else float(text)
    except ValueError:
        floor = -1.0
    if not 0 <= floor <= 1:
        raise ValueError(f"option floor of 'vlm' must be a number from 0 to 1, got {text!r}")
    return floor


class VlmReward:
    """`overall` = following x (0.6 + 0.4 preservation) x (0.5 + 0.5 quality), factors that a question set asks for.

    `spread` is that of the answers' distributions ("token"). `raw` holds each label's probability and, as `…_mass`,
    their sum in the full vocabulary.
    """

    is_differentiable = False

    def __init__(
        self,
        backend: TransformersBackend,
        questions: QuestionSet,
        *,
        name: str,
        card: dict[str, Any] | None = None,
        domain: str | None = None,
        floor: float = FLOOR,
    ) -> None:
        if "instruction_following" not in questions.questions:
            raise ValueError(
                f"question set {questions.version} does not ask for instruction_following, the base of overall"
            )
        backend.label_ids(questions.labels)  # wrong labels are the caller's mistake, not a row's
        self.backend, self.questions, self.floor = backend, questions, floor
        self.name = f"vlm:{name}"
        self.dims = tuple(questions.questions)
        known_for = str((card or {}).get("domain", ANY))
        self._domain = domain or known_for
        self._provenance: dict[str, Any] = {
            "reward": self.name,
            "model": (card or {}).get("name", name),
            **backend.describe,
            "question": questions.version,
            "given_text": "special tokens split",
            "domain": known_for if self._domain == known_for else "ignored",
        }

    def score(self, edits: Sequence[Edit]) -> list[Score]:
        scores: dict[int, Score] = {}
        groups: dict[tuple[str, str], list[int]] = {}
        for index, edit in enumerate(edits):
            failure = self._check(edit)
            if failure:
                scores[index] = failure
            else:
                groups.setdefault((edit.group, edit.criteria or ""), []).append(index)
        prompts = [self._prompt([edits[i] for i in members]) for members in groups.values()]
        told = self.backend.probabilities(prompts, self.questions.labels)
        for members, found in zip(groups.values(), told, strict=True):
            for place, index in enumerate(members):
                own = found[place * len(self.dims) : (place + 1) * len(self.dims)]
                scores[index] = score_of(dict(zip(self.dims, own, strict=True)), self.floor, self._provenance)
        return [scores[index] for index in range(len(edits))]

    def _check(self, edit: Edit) -> Score | None:
        if not edit.instruction.strip():
            return Score.failed("not_applicable", "the instruction is empty", provenance=self._provenance)
        try:
            edit.image("edited")
            outside = check(self._domain, edit)
        except ImageError as error:
            return Score.failed(error.status, error.message, provenance=self._provenance)
        return Score.failed("not_applicable", outside, provenance=self._provenance) if outside else None

    def _prompt(self, edits: Sequence[Edit]) -> Any:
        first = edits[0]
        images = [edit.image("edited") for edit in edits]
        return self.questions.prompt(first.instruction.strip(), first.image("source"), images, first.criteria or "")
