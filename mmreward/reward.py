"""Rewards: what a reward is, and how one is made from a name, a recipe or a mapping.

A spec is `name`, `name:model` or `name:model?option=value&option=value`; the name of a bundled recipe; the path of a
YAML file; or a mapping. YAML and mappings combine several rewards (see `mmreward.combine`). In options, `%` followed by
two hexadecimal digits stands for the byte of that number (`%26` for an &); everything else, a + as well, stands for
itself. A new reward is one file in `mmreward/rewards` and one line in `LOADERS`.
"""

__all__ = [
    "LOADERS",
    "RECIPES",
    "Differentiable",
    "Reward",
    "Spec",
    "failure_of",
    "load_reward",
    "one_per_edit",
    "read_spec",
    "scores_of",
    "unknown",
]

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable
from urllib.parse import unquote

from mmreward.edit import Edit, ImageError
from mmreward.score import Failure, Score

Result = TypeVar("Result")

_LONGEST_ERROR = 500

if TYPE_CHECKING:
    from torch import Tensor

LOADERS: dict[str, str] = {
    "pixels": "mmreward.rewards.pixels:load",
    "oracle": "mmreward.rewards.oracle:load",
    "target": "mmreward.rewards.target:load",
    "clip": "mmreward.rewards.clip:load",
    "vlm": "mmreward.rewards.vlm:load",
    "openai": "mmreward.rewards.openai:load",
    "editscore": "mmreward.rewards.editscore:load",
    "editreward": "mmreward.rewards.editreward:load",
    "hpsv3": "mmreward.rewards.hpsv3:load",
    "pickscore": "mmreward.rewards.pickscore:load",
    "published": "mmreward.rewards.published:load",
}
"""Name -> `module:function`, imported when it is asked for. The function is
`load(model: str, **options: str) -> Reward`, and answers an option that it does not know with `unknown`."""

RECIPES: dict[str, Path] = {"recommended": Path(__file__).parent / "rewards" / "recommended.yaml"}
"""Bundled combinations."""


@runtime_checkable
class Reward(Protocol):
    """Scores edits. The class docstring of a reward says what its `overall` is.

    `score` returns one `Score` per edit, in order, and never raises for a bad row: that row's score has a status.
    A class that inherits from this one overrides what differs.
    """

    name: str
    dims: tuple[str, ...]

    @property
    def is_differentiable(self) -> bool:
        """Whether `tensor` gives the overall with a gradient."""
        return False

    @property
    def needs_group(self) -> bool:
        """Whether an edit's score depends on the others of its group (consecutive edits of equal `Edit.group`), so that
        a group must reach `score` whole."""
        return False

    @property
    def has_overall(self) -> bool:
        """Whether scores have an `overall`; False: dimensions only."""
        return True

    def applies(self, edit: Edit) -> Failure | None:
        """Why this reward does not apply to the edit, `not_applicable` and a reason; None where it does, or where that
        cannot be said without scoring. Decided from the instruction, the captions, source, mask and target alone, never
        from the edited image: so a combination may leave the reward out without a candidate having a say in it. May
        raise ImageError.
        """
        return None

    def score(self, edits: Sequence[Edit]) -> list[Score]: ...


@runtime_checkable
class Differentiable(Protocol):
    """A reward whose `overall` is a function of pixels with a gradient. A class may have `tensor` where one of its
    rewards cannot: `is_differentiable` says whether this one works, and a call raises ValueError where it is False.
    """

    @property
    def is_differentiable(self) -> bool: ...

    def tensor(self, source: "Tensor", edited: "Tensor", instructions: Sequence[str]) -> "Tensor":
        """`overall` [B] in [0, 1], float32 (float64 for float64 images), of images [B, 3, H, W], floating point in
        [0, 1]: what `score` gives for the same images and instructions without captions, mask, target and criteria,
        up to rounding and to how each resizes (the reward says how near).

        NaN, without a gradient, for a row that `score` answers with a status: an empty instruction, a source outside
        of the domain, pixels that are not finite. Raises ValueError for another shape, dtype or range, and where there
        is not one instruction for each image.
        """
        ...


def load_reward(spec: str | Path | Mapping[str, Any] | Reward) -> Reward:
    """The reward that `spec` names. Raises ValueError, with the nearest known name, where there is none."""
    if isinstance(spec, Mapping):
        from mmreward.combine import from_mapping

        return from_mapping(spec)
    if isinstance(spec, str | Path):
        return _from_text(str(spec).strip())
    if isinstance(spec, type):
        raise ValueError(
            f"a reward is a name, a YAML path, a mapping or a Reward, got the class {spec.__name__} itself"
        )
    if isinstance(spec, Reward):
        return spec
    if hasattr(spec, "score"):
        names = ("name", "dims", "is_differentiable", "needs_group", "has_overall", "applies")
        lacks = ", ".join(name for name in names if not hasattr(spec, name))
        raise ValueError(f"{type(spec).__name__} is no Reward: it has no {lacks}; inherit from mmreward.Reward")
    raise ValueError(f"a reward is a name, a YAML path or a mapping, got {type(spec).__name__}")


def unknown(what: str, got: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not known: says what there is, and suggests the nearest."""
    known = sorted(known)
    near = difflib.get_close_matches(str(got), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    there_is = f"There is: {', '.join(known)}." if known else "There is none."
    return ValueError(f"unknown {what} {got!r}.{hint} {there_is}")


def scores_of(reward: Reward, edits: Sequence[Edit]) -> list[Score]:
    """`reward.score(edits)`. Raises ValueError, with its name, for a reward that does not return one score per edit."""
    return one_per_edit(reward, reward.score(edits), len(edits))


def failure_of(error: Exception) -> Failure:
    """What an exception means for the row that raised it: an image that cannot be opened has its own status; all else
    is a fault of machine or software, never a row to which the reward does not apply.
    """
    if isinstance(error, ImageError):
        return Failure(error.status, error.message)
    words = " ".join(str(error).split())[:_LONGEST_ERROR]
    kind = type(error).__name__
    return Failure("error", f"{kind}: {words}" if words else kind)


def one_per_edit(reward: Reward, results: Sequence[Result], edits: int) -> list[Result]:
    """`results` as a list. Raises ValueError, with the reward's name, where there is not one for each edit."""
    if len(results) != edits:
        raise ValueError(
            f"the reward {reward.name!r} returned {len(results)} scores for {edits} edits, so that nobody knows which "
            "belongs to which; it must return one per edit, in order, and a failed one for a row that it cannot score"
        )
    return list(results)


@dataclass(frozen=True)
class Spec:
    """The parts of `name:model?option=value&option=value`."""

    name: str
    model: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


def read_spec(text: str) -> Spec:
    """The parts of the spec of a single reward. Raises ValueError where the options are not written as options are."""
    head, mark, query = text.partition("?")
    name, _, model = head.partition(":")
    pairs = [pair.partition("=") for pair in query.split("&")] if mark and query else []
    if not all(equals and option for option, equals, _ in pairs):
        raise ValueError(f"options of a reward are written ?name=value&name=value, got {query!r} in {text!r}")
    options = {unquote(option): unquote(value) for option, _, value in pairs}
    if len(options) < len(pairs):
        raise ValueError(f"an option is given twice in {text!r}")
    if bad := [option for option in options if not option.isidentifier()]:
        raise ValueError(f"{bad[0]!r} in {text!r} is not the name of an option")
    return Spec(name, model, options)


def _from_text(text: str) -> Reward:
    name = text.partition("?")[0].partition(":")[0]
    if name in LOADERS:  # also with an option that is a file: "vlm:tiny?question=my.yaml"
        spec = read_spec(text)
        module, _, function = LOADERS[name].partition(":")
        reward: Reward = getattr(import_module(module), function)(spec.model, **spec.options)
        return reward
    file = text.partition("?")[0]
    if name in RECIPES and text != name:
        raise ValueError(
            f"the recipe {name!r} takes neither a model nor options, got {text!r}; copy {RECIPES[name]} and change that"
        )
    if file.endswith((".yaml", ".yml")) and file != text:
        raise ValueError(f"a combination takes no options, got {text!r}; write them in {file}, behind its members")
    if name not in RECIPES and not file.endswith((".yaml", ".yml")):
        raise unknown("reward", name, [*LOADERS, *RECIPES])
    from mmreward.combine import from_yaml

    return from_yaml(RECIPES.get(text, Path(text)))
