"""The run behind the recipe task "judge": puts model, batches, helper heads and the loop together, and exports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mmreward.fit.card import history
from mmreward.fit.judge_asks import frame_of
from mmreward.fit.judge_check import hard_pairs, order, spearman
from mmreward.fit.judge_data import Batches, Group, world_group
from mmreward.fit.judge_export import about, save_judge
from mmreward.fit.judge_model import new_model, new_processor, new_tokenizer
from mmreward.fit.judge_train import JudgeTrainer
from mmreward.judge.backends.folder import find_model
from mmreward.judge.question import load_questions
from mmreward.shapes import World
from mmreward.strict_json import dumps
from mmreward.training import Group as Parameters
from mmreward.training import LoopConfig, fit
from mmreward.training.loop import autocast

if TYPE_CHECKING:
    from mmreward.fit.judge import JudgeRecipe

__all__ = ["train", "validate"]


def train(config: JudgeRecipe, folder: Path, resume: bool) -> dict[str, Any]:
    """Train, validate and export; returns the numbers on validation tasks."""
    model, processor = _start(config)
    trainer, batches = _put_together(config, model, processor)
    held = _held_out(config)
    checked = -1.0

    def check(entry: dict[str, Any]) -> None:
        nonlocal checked
        if held and entry["seconds"] - checked > 60 * config.check_minutes and entry["step"] >= config.look_steps:
            checked = entry["seconds"]
            numbers = validate(trainer, batches, held, config.loop.autocast)
            with (folder / "validation.jsonl").open("a") as stream:
                stream.write(dumps({"step": entry["step"], "seconds": entry["seconds"], **numbers}) + "\n")

    result = fit(
        trainer,
        batches.at,
        trainer.loss,
        config.loop,
        folder,
        resume=resume,
        parameter_groups=parameter_groups(trainer, config.loop),
        on_log=check,
        title="judge",
    )
    if result.ema_state:
        trainer.load_state_dict(result.ema_state)
    numbers = validate(trainer, batches, held, config.loop.autocast) if held else {}
    card = _card(config, batches, result.steps, result.seconds, numbers)
    save_judge(model, processor, card, folder / "model")
    return {"steps": result.steps, "minutes": round(result.seconds / 60, 1), **numbers}


def _put_together(config: JudgeRecipe, model: Any, processor: Any) -> tuple[JudgeTrainer, Batches]:
    frame = frame_of(processor, load_questions(config.questions), config.checklist, config.pairwise)
    batches = Batches(
        World("train", config.loop.seed),
        processor.tokenizer,
        processor.image_processor,
        frame,
        groups=config.groups,
        candidates=config.candidates,
        text_length=config.text_length,
        look_steps=config.look_steps,
        look_groups=config.look_groups,
        first=config.first_task,
        extra=_extra(config),
        share=config.share,
        smeared=config.smeared,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)  # the helper heads begin the same way in every run
        return JudgeTrainer(model, frame, config.dense_steps, config.compiled), batches


def _held_out(config: JudgeRecipe) -> list[Group]:
    return [world_group(World("validation", 0), i, 8) for i in range(config.check_groups)]


def _card(
    config: JudgeRecipe, batches: Batches, steps: int, seconds: float, numbers: dict[str, float]
) -> dict[str, Any]:
    """What the model is, this run after those that it went on from."""
    before = find_model(str(_start_folder(config))).card if config.start else {}
    count = max(steps - config.look_steps, 0) * config.groups * config.candidates
    data = f"shapes world, split train, seed {config.loop.seed}: {count:,} candidate edits"
    if config.look_steps:
        data += f" after {config.look_steps} steps of looking at images and reading instructions only"
    if config.extra:
        data += f", {batches.share:.0%} of the groups outputs of an editor"
    if config.smeared:
        data += f", {config.smeared:.0%} of the other candidates smeared at random"
    data += "; without the kept-out flaws, instructions and shape-colour pairs"
    if before:
        data = f"{before['data']}; then {data}"
    minutes = seconds / 60 + float(before.get("minutes", 0))
    measured = {f"validation_{name}": value for name, value in numbers.items()}
    ways = {"checklist": config.checklist, "pairwise": config.pairwise}
    asked = {"expected": config.questions, **{way: name for way, name in ways.items() if name}}
    return about(config.name, asked, data, history(config, before), minutes, measured)


def parameter_groups(trainer: JudgeTrainer, config: LoopConfig) -> list[Parameters]:
    """Muon for the matrices of all blocks; AdamW for the rest, three times as fast for the patch embedding."""
    model: Any = trainer.judge
    patch = model.model.visual.patch_embed.proj.weight
    if config.optimizer == "adamw":
        matrices: list[Any] = []
    else:
        towers = model.model.visual, model.model.language_model
        matrices = [layer.weight for tower in towers for layer in tower.modules() if isinstance(layer, nn.Linear)]
    taken = {id(patch), *map(id, matrices)}
    rest = [p for p in trainer.parameters() if id(p) not in taken]
    return [Parameters(matrices, "muon"), Parameters(rest), Parameters([patch], lr_scale=3.0)]


def validate(trainer: JudgeTrainer, batches: Batches, held: list[Group], precision: str) -> dict[str, float]:
    """Agreement with the oracle on held-out groups."""
    trainer.eval()
    found = []
    with autocast(next(trainer.parameters()).device, precision):
        for start in range(0, len(held), 16):
            found.append(trainer.scores(batches.batch(held[start : start + 16])).float().numpy())
    trainer.train()
    scores = np.concatenate(found)
    labels = np.stack([group.labels for group in held])
    numbers = {
        name: spearman(scores[..., i].ravel(), labels[..., i].ravel())
        for i, name in enumerate(("following", "preservation", "quality"))
    }
    overall = [
        f * (0.6 + 0.4 * p) * (0.5 + 0.5 * q) for f, p, q in (np.moveaxis(scores, -1, 0), np.moveaxis(labels, -1, 0))
    ]
    hard = [hard_pairs(group.source_image, group.images) for group in held]
    numbers["pairs"] = order(overall[0], overall[1]).right
    numbers["hard_pairs"] = order(overall[0], overall[1], hard).right
    numbers["overall_error"] = float(np.abs(overall[0] - overall[1]).mean())
    return {name: round(value, 4) for name, value in numbers.items()}


def _start(config: JudgeRecipe) -> tuple[Any, Any]:
    if config.start:
        from transformers import AutoModelForImageTextToText, AutoTokenizer

        folder = _start_folder(config)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        return model, new_processor(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    world = World("train", config.loop.seed, kept_out="include")
    texts = [text for task in world.tasks(6000) for text in (task.instruction, task.source_caption)]
    tokenizer = new_tokenizer(texts, config.model.vocabulary)
    return new_model(config.model, tokenizer, config.loop.seed), new_processor(tokenizer)


def _start_folder(config: JudgeRecipe) -> Path:
    from mmreward.assets import model_folder

    return Path(str(config.start)) if Path(str(config.start)).is_dir() else model_folder(str(config.start))


def _extra(config: JudgeRecipe) -> list[Group]:
    if not config.extra:
        return []
    from mmreward.fit.judge_extra import read_outputs

    groups = []
    for name in config.extra:
        outputs = read_outputs(Path(name))
        print(f"{name}: {outputs.edits} edits in {len(outputs.groups)} groups, {outputs.unreadable} unreadable")
        groups += outputs.groups
    return groups
