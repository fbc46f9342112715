"""The rewards of a recipe, before anything starts: what each is made of, and where its parts run.

Rewards whose weights are small and on this machine are loaded. In the place of a larger judge, or of one behind a
server, stands its real way of judging in front of a backend that keeps the prompts and answers nothing (see
`editing.dryrun_tokens`), so that dimensions, combinations and comparisons are checked as the run would check them.
"""

__all__ = ["Part", "declare"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editing.dryrun_tokens import Listener
from mmreward.combine import from_mapping, opened
from mmreward.edit import Edit
from mmreward.judge.reward import JudgeReward, judge_reward
from mmreward.preference import Pair, Preference
from mmreward.reward import LOADERS, RECIPES, Reward, load_reward, read_spec, unknown
from mmreward.score import Score

LOADED_BYTES = 512 * 2**20
"""Weights up to this size are loaded."""
_WITHOUT_MODEL = ("pixels", "oracle", "target")
_DIMS = ("instruction_following", "preservation", "quality")
_TWO_STEPS = ("checklist", "entities")


class _Absent(Reward):
    """A reward that is not on this machine, for what can be said of it all the same."""

    def __init__(self, name: str, dims: Sequence[str]) -> None:
        self.name, self.dims = name, tuple(dims)

    def score(self, edits: Sequence[Edit]) -> list[Score]:
        return [Score.failed("not_applicable", f"{self.name} is not loaded in a dry run")] * len(edits)


class _Published(_Absent):
    """A published judge, some of which compare; which ones is known when they are loaded."""

    def compare(self, pairs: Sequence[Pair]) -> list[Preference]:
        return [Preference.failed("not_applicable", f"{self.name} is not loaded in a dry run")] * len(pairs)


@dataclass
class Part:
    """One single reward of a recipe."""

    spec: str
    reward: Reward
    where: str
    loaded: bool
    """Whether it can score here and now."""
    bytes: int | None = 0
    """Weights in this process; None: not known."""
    way: str | None = None
    """Of a judge."""
    processor: Any = None
    shares: bool | None = None
    """Whether a judge in this process computes what candidates share once; None: not known."""

    @property
    def whole_count(self) -> bool:
        """Whether all of a judge's questions can be foreseen; those of two steps depend on its first answers."""
        return self.way not in _TWO_STEPS


def declare(spec: str | Mapping[str, Any], parts: list[Part]) -> Reward:
    """The reward that `spec` names, with stand-ins for what is large or elsewhere; its single rewards go to `parts`.

    Raises ValueError or OSError for what `load_reward` would refuse without looking at weights.
    """

    def member(inner: str | Mapping[str, Any]) -> Reward:
        return declare(inner, parts)

    if isinstance(spec, Mapping):
        return from_mapping(spec, load=member)
    text = str(spec).strip()
    name = text.partition("?")[0].partition(":")[0]
    if text in RECIPES or text.endswith((".yaml", ".yml")) and name not in LOADERS:
        with opened(RECIPES.get(text, Path(text))) as combination:
            return from_mapping(combination, text, load=member)
    if name not in LOADERS:
        raise unknown("reward", name, [*LOADERS, *RECIPES])
    part = _SINGLE.get(name, _elsewhere)(text)
    parts.append(part)
    return part.reward


def _model_and_options(spec: str) -> tuple[str, dict[str, str]]:
    read = read_spec(spec)
    return read.model, dict(read.options)


def _without_model(spec: str) -> Part:
    return Part(spec, load_reward(spec), "no model", True)


def _clip(spec: str) -> Part:
    from mmreward.assets import model_folder
    from mmreward.rewards.clip import ClipReward

    model, _ = _model_and_options(spec)
    folder = model_folder("tiny-clip") if model == "tiny" else Path(model)
    if folder.is_dir() and _weigh(folder) <= LOADED_BYTES:
        return Part(spec, load_reward(spec), "in this process", True, _weigh(folder))
    where = "in this process, too large to load for a dry run" if folder.is_dir() else "in this process, from open_clip"
    return Part(spec, _Absent(spec, ClipReward.dims), where, False, _weigh(folder) if folder.is_dir() else None)


def _vlm(spec: str) -> Part:
    from mmreward.judge.backends.folder import find_model
    from mmreward.rewards import vlm

    model, options = _model_and_options(spec)
    source = find_model(model, options.get("revision"))
    way = options.get("way", "expected")
    size = _weigh(Path(source.path)) if source.is_folder else None
    if size is not None and size <= LOADED_BYTES:
        reward: Any = load_reward(spec)
        backend = reward.backend
        shares = backend.describe.get("layout") != "plain"
        return Part(spec, reward, "in this process", True, size, way, backend.processor, shares)
    folder = source.path if source.is_folder else _cached(source.path)
    judge = _judge(spec, model, options, vlm.OPTIONS, source.card)
    where = "in this process" if folder else "in this process, from the hub; not on this machine yet"
    limits = [int(options[name]) if name in options else None for name in ("pixels", "min_pixels")]
    return Part(spec, judge, where, False, size, way, _processor(folder, *limits) if folder else None)


def _openai(spec: str) -> Part:
    from mmreward.judge.backends.openai_options import SERVER_OPTIONS

    model, options = _model_and_options(spec)
    address = model.partition("#")[0]
    if not address:
        load_reward(spec)  # raises
    judge = _judge(spec, model, options, SERVER_OPTIONS, {})
    return Part(spec, judge, f"a server, {address}", False, 0, options.get("way", "expected"))


def _elsewhere(spec: str) -> Part:
    if not _model_and_options(spec)[0]:
        load_reward(spec)  # raises
    return Part(spec, _Published(spec, _DIMS), "loaded when training starts", False, None)


_SINGLE: dict[str, Callable[[str], Part]] = {
    **dict.fromkeys(_WITHOUT_MODEL, _without_model),
    "clip": _clip,
    "vlm": _vlm,
    "openai": _openai,
}


def _judge(spec: str, model: str, options: dict[str, str], own: Sequence[str], card: Mapping[str, Any]) -> JudgeReward:
    """The judge with its way of judging, and nobody behind it."""
    from mmreward.judge.ways import load_way, way_options

    name = spec.partition(":")[0]
    options = dict(options)
    way_name = options.pop("way", "expected")
    known = ("way", *own, *way_options(way_name))
    for option in options:
        if option not in known:
            raise unknown(f"option of {name!r}", option, known)
    return judge_reward(Listener(), load_way(way_name, options, card), name=f"{name}:{model}", model=model)


def _weigh(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("[!.]*.safetensors"))


def _cached(repository: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json")
    return str(Path(found).parent) if isinstance(found, str) else None


def _processor(folder: str, pixels: int | None, min_pixels: int | None) -> Any:
    """The judge's own, or None where it is not whole on this machine."""
    from transformers import AutoProcessor

    from mmreward.judge.backends.pixels import limit_pixels

    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    limit_pixels(processor, pixels, min_pixels)
    return processor
