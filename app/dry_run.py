"""What a recipe would do, for people to read before it starts: `mmreward train RECIPE --dry-run`."""

__all__ = ["show_reward_run", "show_settings"]

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editing.dryrun import DryRun
    from editing.dryrun_editor import EditorFacts
    from editing.dryrun_reward import Part
    from editing.recipe import Recipe

_WIDTH = 80
_LABEL = 11

Lines = Iterator[tuple[str, str]]


def show_reward_run(name: str, found: "DryRun") -> str:
    """The dry run of a reward training recipe, 80 columns wide (a longer path stays whole)."""
    rows = [*_editor(found), *_data(found), *_iteration(found), *_rewards(found), *_memory(found), *_time(found)]
    return _page(name, rows, found.problems)


def show_settings(name: str, task: str, settings: Mapping[str, Any], problems: list[str]) -> str:
    """What is known of another recipe: its settings, read and valid."""
    rows = [("task", task), ("length", _length(settings.get("loop", {})))]
    rows += [(key, _value(value)) for key, value in settings.items() if key not in ("task", "loop")]
    rows += [("loop" if not place else "", line) for place, line in enumerate([_value(settings.get("loop", {}))])]
    rows.append(("", "This task says what it costs as it goes: its log has the time left."))
    return _page(name, rows, problems)


def _page(name: str, rows: list[tuple[str, str]], problems: list[str]) -> str:
    lines = [f"{name}: a dry run. Nothing was started, written or downloaded.", ""]
    for label, text in rows:
        lines += _wrapped(label, text)
    lines.append("")
    if problems:
        lines += _wrapped("problems", "it could not start:")
        for problem in problems:
            lines += textwrap.wrap(problem, _WIDTH, initial_indent="  - ", subsequent_indent="    ", **_WHOLE)
    else:
        lines += _wrapped("checks", "roles, algorithm, reward, files and settings are in order: it could start.")
    return "\n".join(lines)


_WHOLE: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
"""A path that is longer than a line stays whole, to be copied."""


def _wrapped(label: str, text: str) -> list[str]:
    wide = label if len(label) < _LABEL else label[: _LABEL - 1]
    return textwrap.wrap(
        text or "none", _WIDTH, initial_indent=f"{wide:<{_LABEL}}", subsequent_indent=" " * _LABEL, **_WHOLE
    )


# ---- sections


def _editor(found: "DryRun") -> Lines:
    editor, recipe = found.editor, found.recipe
    if editor is None:
        yield "editor", f"{recipe.editor}: not found"
        return
    family = f" ({editor.place.family})" if editor.place.family else ""
    yield "editor", f"{editor.place.name}{family}"
    if editor.parameters is None:
        yield "", f"known from {editor.known_from}"
        return
    dtype = str(editor.dtype).removeprefix("torch.")
    yield "", f"{_count(editor.parameters)} parameters in {dtype}; known from {editor.known_from}"
    yield "trained", _trained(editor, recipe)
    if editor.size and editor.latent:
        sides, (tokens, channels) = "x".join(map(str, editor.size)), editor.latent
        yield "images", f"{sides} pixels, latents of {tokens:,} tokens x {channels} channels"


def _trained(editor: "EditorFacts", recipe: "Recipe") -> str:
    policy = recipe.policy
    if editor.trainable is None or not editor.parameters:
        return f"{policy.weights}; how many parameters is not known"
    share = f"{_count(editor.trainable)} parameters ({editor.trainable / editor.parameters:.2%})"
    if policy.weights == "lora":
        return f"LoRA of rank {policy.rank}, alpha {policy.alpha}, on {editor.layers} layers: {share}"
    return f"{'all weights' if policy.weights == 'full' else 'some layers'}: {share}"


def _data(found: "DryRun") -> Lines:
    recipe = found.recipe
    for label, role, config, count in (
        ("data", "data", recipe.data, None),
        ("monitor on", "monitor", recipe.evaluation.monitor, recipe.evaluation.monitor_tasks),
        ("final on", "final", recipe.evaluation.final, recipe.evaluation.final_tasks),
    ):
        if role == "final" and recipe.roles.final is None:
            continue
        taken = f"{count} tasks of " if count else ""
        if config.file is None:
            kinds = f" ({', '.join(config.kinds)})" if config.kinds else ""
            yield label, f"{taken}the shapes world, {config.split} split{kinds}"
        else:
            rows = found.rows.get(role)
            yield label, f"{taken}{config.file}" + (f", {rows:,} rows" if rows is not None else ", not readable")
            if left_out := found.unreadable.get(role):
                row, why = next(iter(left_out.items()))
                yield "", f"left out: {len(left_out):,} rows that cannot be used; the first is row {row}: {why}"


def _iteration(found: "DryRun") -> Lines:
    recipe, counts = found.recipe, found.counts
    rollout, loop = recipe.rollout, recipe.loop
    name = recipe.algorithm["name"]
    yield "length", _length(loop.model_dump())
    if counts is None:
        return
    yield "iteration", f"{rollout.groups} tasks x {rollout.members} edits = {counts.samples:,} edits; {name}"
    place = f"{rollout.place}{f' over the first {rollout.within}' if rollout.within else ''}"
    noise = f"noise in {rollout.window} of them ({place})" if rollout.window else "without noise"
    once = ", those before the noise once a group" if rollout.start == "shared" and rollout.place == "sliding" else ""
    yield (
        "sampling",
        f"{counts.sampled:,} predictions: {rollout.steps} steps each{once}, {noise}, {rollout.batch} at a time",
    )
    shares = f"in {loop.updates} update{'s' if loop.updates > 1 else ''}, micro-batches of {loop.micro_batch}"
    held = f", {counts.held} for the anchor" if counts.held else ""
    yield "training", f"{counts.trained:,} predictions with gradient ({counts.examples} of each edit{held}), {shares}"
    if counts.compared:
        yield "", f"{counts.compared:,} without gradient, by the starting weights or the old policy"
    if found.editor and found.editor.passes > 1:
        yield "", f"each prediction takes {found.editor.passes} passes of the network, for guidance"


def _rewards(found: "DryRun") -> Lines:
    for role, parts in found.roles.items():
        for place, part in enumerate(parts):
            yield "" if place else role, _part(part)
    groups = found.recipe.rollout.groups
    judged = {part.spec: part for part in found.roles.get("reward", []) if part.spec in found.tokens}
    for spec, part in judged.items():
        yield "judge", _tokens(found, spec, part, groups)


def _part(part: "Part") -> str:
    weight = "" if part.bytes == 0 else f", {_size(part.bytes)}"
    name, _, options = part.spec.partition("?")
    said = f" ({', '.join(options.split('&'))})" if options else ""
    return f"{name}{said}: {part.where}{weight}"


def _tokens(found: "DryRun", spec: str, part: "Part", groups: int) -> str:
    told, members = found.tokens[spec], found.recipe.rollout.members
    least = "" if part.whole_count else "at least "
    answers = f"{least}{told.answers / members:.3g} answers an edit, {told.answers * groups:,} an iteration"
    if told.alone is None or told.shared is None:
        why = "its server counts them" if part.spec.startswith("openai:") else "its processor is not on this machine"
        return f"{answers}; tokens: unknown, {why}"
    first, second = told.shared, told.alone
    if part.shares is False:
        first, second = second, first
    of_edit = f"{least}{first / members:,.0f} tokens an edit, {_count(first * groups)} an iteration"
    other = "if nothing were shared" if part.shares is not False else "if it could share what candidates have in common"
    return f"{answers}; {of_edit} ({second / members:,.0f} an edit {other})"


def _memory(found: "DryRun") -> Lines:
    rows = found.memory
    if not rows:
        yield "memory", "unknown: the editor's size is not known here"
        return
    total = sum(size or 0 for size in rows.values())
    unknown = [name for name, size in rows.items() if size is None]
    more = f", and what is not known ({', '.join(unknown)})" if unknown else ""
    yield "memory", f"about {_size(total)} in each process{more}; an estimate:"
    yield "", ", ".join(f"{name} {_size(size)}" for name, size in rows.items() if size)
    if found.host_memory:
        parked = ", ".join(found.editor.parked) if found.editor else ""
        yield "", f"in main memory: {parked} {_size(found.host_memory)}"


def _time(found: "DryRun") -> Lines:
    seconds = found.seconds
    if seconds is None:
        yield "time", "unknown: the work of the editor's network is not known here"
        return
    parts = ", ".join(f"{name} {_duration(value)}" for name, value in seconds.parts.items())
    total = _duration(sum(seconds.parts.values()))
    unknown = "" if "reward" in seconds.parts else "; the reward's time is not known"
    if seconds.measured:
        yield "time", f"about {total} an iteration: {parts}{unknown}; {_how_measured(found)}"
    else:
        from editing.dryrun import ASSUMED_FLOPS

        speed = f"{ASSUMED_FLOPS / 1e12:.0f} TFLOP/s"
        yield "time", f"about {total} an iteration for one GPU at an assumed {speed}: {parts}{unknown}"
        yield "", "several processes share it"


def _how_measured(found: "DryRun") -> str:
    here = f"({found.device.type})"
    if not found.parts_seconds:
        return f"measured on one batch here {here}" + (", without compiling" if found.recipe.loop.compile else "")
    how = f"measured on a small one here {here}"
    if not found.recipe.loop.compile:
        return how
    if found.device.type != "cpu":
        return f"{how}, without compiling"
    from editing.dryrun_iteration import COMPILED

    faster = " and ".join(f"{name} {times:g}" for name, times in COMPILED.items())
    return f"{how} before compiling, which is taken to make {faster} times as fast, after a minute at the start"


# ---- words


def _length(loop: Mapping[str, Any]) -> str:
    if loop.get("minutes"):
        return f"{loop['minutes']:g} minutes"
    return f"{loop['steps']:,} steps" if loop.get("steps") else "not said"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, Path) or value is not None:
        return f"{value:g}" if isinstance(value, float) else str(value)
    return "none"


def _count(number: float) -> str:
    for unit, name in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:,.0f}"


def _size(bytes_: float | None) -> str:
    if bytes_ is None:
        return "size not known here"
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if bytes_ >= unit:
            return f"{bytes_ / unit:.1f} {name}"
    return f"{bytes_ / 1e3:.0f} kB"


def _duration(seconds: float) -> str:
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
