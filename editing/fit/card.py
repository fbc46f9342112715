"""The two files that every bundled model folder has: `mmreward.json` for programs, README.md for people."""

__all__ = ["write_card"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmreward.strict_json import dumps


def write_card(folder: Path, about: Mapping[str, Any], summary: str) -> None:
    """Writes both from one mapping (name, domain, world_version, data, command, minutes, numbers …)."""
    (folder / "mmreward.json").write_text(dumps(about, indent=2) + "\n", encoding="utf-8")
    lines = [f"# {about['name']}", "", summary, ""]
    lines += [f"- Valid in: {about['domain']} ({about['world_version']}); it knows no photographs."]
    lines += [f"- Data: {about['data']}."]
    lines += [f"- Command: `{about['command']}` ({about['minutes']} minutes on two CPU cores)."]
    lines += ["", "| measured on held-out scenes | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in about["numbers"].items()]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
