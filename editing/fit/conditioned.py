"""Fine-tuning an editor on scored triplets: recipe task `conditioned`.

Supervised, from the same triplets and scores in three ways:

- `conditioned`: all of them, the scores and the feedback being conditions of the editor; afterwards it is asked for the
  best (`editing.editors.conditioned`). Flawed targets then teach what a low score looks like, and not what to do.
- `top_scored`: those with the best overall alone, as EditReward filters (Wu et al., 2025,
  https://arxiv.org/abs/2509.26346).
- `weighted`: all of them, weighed by exp(overall / temperature), as in reward-weighted regression.

The last two are the baselines that the first must beat. What is trained of the network, in which precision and in how
many processes says `policy`, as in training on rewards (`editing.weights`, `editing.sharding`); each process takes a
share of every batch.

    mmreward train conditioned-tiny --out runs/conditioned            # writes runs/conditioned/model
    mmreward edit --editor "runs/conditioned/model?asked=quality:0.4" --source a.png --instruction "make it blue"
"""

__all__ = ["ByScores", "ConditionedRecipe", "TopScored", "Weighted", "run"]

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from accelerate import Accelerator
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from editing.attention import training_attention
from editing.editors import load_editor
from editing.editors.conditioned import Conditioned, conditioned
from editing.editors.lora import save_lora
from editing.editors.pipeline import PipelineEditor
from editing.fit.conditioned_data import ScoredTriplets, TripletConfig, scored_triplets
from editing.fit.conditioned_family import Family, family_of
from editing.fit.conditioned_training import ConditionedTraining, Draw, Dropout, loss, worst_scores
from editing.fit.export import Told, write_editor
from editing.fit.held_out import HeldOut
from editing.processes import Processes
from editing.sharding import prepare
from editing.weights import Policies, PolicyConfig
from mmreward.config import ConfigError
from mmreward.training import FitResult, Group, LoopConfig, fit, read_config, save_atomic
from mmreward.training.checkpoint import refuse_to_overwrite
from mmreward.training.optim import default_groups
from mmreward.training.sharded import whole


class ByScores(BaseModel, extra="forbid", frozen=True):
    """Scores and feedback as conditions."""

    name: Literal["conditioned"]
    levels: int = Field(default=6, ge=2)
    """Learned vectors per score."""
    dropped: float = Field(default=0.1, ge=0, lt=1)
    """Share of rows whose scores are not said."""
    no_feedback: float = Field(default=0.5, ge=0, le=1)
    """Share of rows whose feedback is left out; at inference there is none."""
    guidance: float = 1.5
    """Of the exported editor, from low towards the best scores; 1: none."""
    low: float = Field(default=0.1, gt=0, le=1)
    """Guidance leads away from the mean scores of this share of the triplets, the worst."""
    lr_scale: float = Field(default=3.0, gt=0)
    """Factor on the learning rate for what is new in the editor."""

    def weights(self, overall: Tensor) -> Tensor:
        return (~overall.isnan()).float()


class TopScored(BaseModel, extra="forbid", frozen=True):
    """The best part alone."""

    name: Literal["top_scored"]
    share: float = Field(default=0.3, gt=0, le=1)

    def weights(self, overall: Tensor) -> Tensor:
        """1 for the best `share` of those that have a score, at least one; the earlier one of equals."""
        count = max(int(self.share * int((~overall.isnan()).sum())), 1)
        order = overall.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
        return torch.zeros_like(overall).index_fill(0, order[:count], 1.0) * ~overall.isnan()


class Weighted(BaseModel, extra="forbid", frozen=True):
    """All, the better ones weighing more."""

    name: Literal["weighted"]
    temperature: float = Field(default=0.2, gt=0)

    def weights(self, overall: Tensor) -> Tensor:
        """exp((overall - 1) / temperature); 0 without a score."""
        return ((overall - 1) / self.temperature).exp().nan_to_num(0.0)


class ConditionedLoop(LoopConfig, frozen=True):
    """The loop's own settings."""

    gradient_checkpointing: bool = False
    """Compute the network's activations again in the backward pass: a third more time, a fraction of the memory."""


class ConditionedRecipe(BaseModel, extra="forbid", frozen=True):
    """Settings of the recipe."""

    task: Literal["conditioned"] = "conditioned"
    editor: str = "tiny"
    """What to start from: FLUX Kontext or InstructPix2Pix."""
    data: TripletConfig = TripletConfig()
    method: Annotated[ByScores | TopScored | Weighted, Field(discriminator="name")]
    policy: PolicyConfig = PolicyConfig(weights="full")
    """What is trained of the network. Its average is `loop.ema`."""
    loop: ConditionedLoop
    batch: int = Field(default=64, ge=1)
    """Rows of a step, shared by all processes."""
    time_mean: float = 0.4
    time_std: float = 1.0
    """A flow is trained at noise levels sigmoid(normal(time_mean, time_std))."""
    empty: float = Field(default=0.05, ge=0, le=1 / 3)
    """Share of rows without the instruction, without the source and without both, for an editor guided so."""
    cache: Path | None = None
    """File of encoded and scored triplets, for several runs to share; None: in the run's folder."""
    seed: int = 0
    checked: int = Field(default=512, ge=1)
    """Validation scenes that averaged weights are measured on, where the data is the shapes world's."""
    checked_minutes: float = 5.0

    @model_validator(mode="before")
    @classmethod
    def _not_older(cls, values: Any) -> Any:
        rank = values.get("lora", ...) if isinstance(values, dict) else ...
        if rank is None:
            raise ValueError("`lora: null` is now `policy: {weights: full}`, and can be left out")
        if rank is not ...:
            alpha = 2 * rank if isinstance(rank, int) else "ALPHA"
            raise ValueError(f"`lora: {rank}` is now `policy: {{weights: lora, rank: {rank}, alpha: {alpha}}}`")
        return values

    @model_validator(mode="after")
    def _one_path(self) -> "ConditionedRecipe":
        policy = self.policy
        if {"ema", "keep"} & policy.model_fields_set:
            raise ValueError("policy.ema and policy.keep are those of reward training; here the average is loop.ema")
        if policy.shard and self.loop.optimizer == "muon":
            raise ValueError("policy.shard: Muon needs whole matrices; set loop.optimizer: adamw")
        if policy.export == "lora" and isinstance(self.method, ByScores):
            raise ValueError(
                "policy.export: lora leaves out what method conditioned adds to the editor; set policy.export: both"
            )
        return self


def run(recipe: dict[str, Any], folder: Path, resume: bool) -> None:
    """Scores and encodes the triplets once, trains, and writes `folder`/model; in each process of several the same
    call.
    """
    settings = read_config(ConditionedRecipe, recipe, "the recipe of task 'conditioned'")
    accelerator = Accelerator(mixed_precision="no")  # autocast is the loop's
    processes = Processes()
    if settings.batch % processes.size:
        raise ConfigError(f"batch: {settings.batch} for {processes.size} processes; set a multiple of them")
    with processes.together():
        _run(settings, Path(folder), resume, processes, accelerator.device)
    accelerator.end_training()


def _run(settings: ConditionedRecipe, folder: Path, resume: bool, processes: Processes, device: torch.device) -> None:
    refuse_to_overwrite(folder, resume)
    editor = _start(settings, device, processes)
    family = family_of(editor, settings.time_mean, settings.time_std)
    data = _data(settings, editor, family, folder, processes)
    method, dropout = settings.method, Dropout(empty=settings.empty)
    if isinstance(method, ByScores):
        dropout = Dropout(method.dropped, method.no_feedback, settings.empty)
    module = _module(settings, editor, family, data)
    held_out = HeldOut(settings.data.kinds, settings.checked, editor.default_steps)
    share = processes.share(settings.batch)

    def alone() -> tuple[PipelineEditor, ConditionedTraining]:
        """The same editor once more, whole in one process."""
        editor = _start(settings, device)
        return editor, _module(settings, editor, family_of(editor, settings.time_mean, settings.time_std), data)

    watched = processes.main and settings.data.file is None
    with training_attention(device):  # in the backward pass too, where checkpointing computes the forward pass again
        result = fit(
            module,
            Draw(data, method.weights(data.overall), family, dropout, settings.batch, settings.seed, share),
            loss,
            settings.loop,
            folder,
            resume=resume,
            parameter_groups=_groups(settings, module),
            on_log=held_out.watching(folder, settings.checked_minutes, alone) if watched else None,
            title="editor",
            processes=processes,
        )
    trained = {
        name: whole(tensor, processes.main) for name, tensor in (result.ema_state or module.state_dict()).items()
    }
    if not processes.main:
        return
    if settings.policy.shard:
        editor, module = alone()
    module.load_state_dict(trained)
    if "model" in settings.policy.exports:
        _export(settings, editor, data, held_out, folder / "model", result)
    if "lora" in settings.policy.exports:
        save_lora(editor, folder / "lora")


def _start(settings: ConditionedRecipe, device: torch.device, processes: Processes | None = None) -> PipelineEditor:
    """The editor to train, with conditions if the method is by scores; ready for these processes."""
    torch.manual_seed(settings.seed)
    editor = cast(PipelineEditor, load_editor(settings.editor, device=device))
    method, scores = settings.method, settings.data.scores
    if isinstance(editor, Conditioned):
        if not isinstance(method, ByScores) or editor.conditioner.scores != scores:
            raise ConfigError(
                f"editor: {settings.editor} is conditioned on {', '.join(editor.conditioner.scores)} already; go on "
                "with method.name conditioned and data.scores the same, or choose another one"
            )
        editor.score_guidance = method.guidance
    elif isinstance(method, ByScores):
        editor = conditioned(editor, scores=scores, levels=method.levels, score_guidance=method.guidance)
    ready = None
    if processes:
        loop, policy = settings.loop, settings.policy
        ready = partial(prepare, checkpointing=loop.gradient_checkpointing, sharded=policy.shard, processes=processes)
    Policies.of(editor, settings.policy, (), ready)
    if processes and isinstance(editor, Conditioned):
        processes.same(editor.conditioner.requires_grad_(True))
    return editor


def _data(
    settings: ConditionedRecipe, editor: PipelineEditor, family: Family, folder: Path, processes: Processes
) -> ScoredTriplets:
    """Encoded by the first process; the others read its file."""
    file = settings.cache or folder / "triplets.safetensors"
    if not processes.main:
        processes.gather(None)
        return scored_triplets(editor, family, settings.data, file)
    data = scored_triplets(editor, family, settings.data, file)
    processes.gather(None)
    overall = data.overall
    missing = int(overall.isnan().sum())
    print(f"{len(overall):,} triplets, mean overall {float(overall.nanmean()):.3f}; {missing:,} without a score")
    return data


def _module(
    settings: ConditionedRecipe, editor: PipelineEditor, family: Family, data: ScoredTriplets
) -> ConditionedTraining:
    if isinstance(editor, Conditioned) and isinstance(settings.method, ByScores):
        editor.low = worst_scores(data, editor.conditioner.scores, settings.method.low)
    return ConditionedTraining(editor, family)


def _groups(settings: ConditionedRecipe, module: ConditionedTraining) -> list[Group] | None:
    """The network's own groups, and one for what is new; None: the loop's own choice."""
    if not isinstance(settings.method, ByScores):
        return None
    new = Group(list(module.conditioner.parameters()), lr_scale=settings.method.lr_scale)
    return [*default_groups(module.network, settings.loop), new]


def _export(
    settings: ConditionedRecipe,
    editor: PipelineEditor,
    data: ScoredTriplets,
    held_out: HeldOut,
    out: Path,
    result: FitResult,
) -> None:
    """Writes the editor; in the shapes world with a card and what the oracle says of it."""
    if settings.data.file is not None:
        save_atomic(out, editor.save)
        return
    scores = ", ".join(settings.data.scores)
    summary = {
        "conditioned": f"An editor that is told scores ({scores}) and is asked for the best ones.",
        "top_scored": "An editor that was fine-tuned on the best part of scored triplets.",
        "weighted": "An editor that was fine-tuned on triplets weighed by their scores.",
    }
    told = Told(
        name=editor.name,
        summary=summary[settings.method.name],
        data=(
            f"{result.steps * settings.batch:,} samples of {len(data.overall):,} triplets of the train split "
            f"({', '.join(settings.data.kinds)}; {settings.data.flawed:.0%} with a flawed target), "
            f"scored by {settings.data.reward}"
        ),
        command=f"mmreward train RECIPE  # with editor {settings.editor} and method {settings.method.name}",
        seconds=result.seconds,
    )
    print(write_editor(editor, held_out, told, out))
