"""Where the bundled data lies: `assets/` beside the packages in a checkout, `mmreward/_assets` once installed."""

__all__ = ["assets_folder", "example_edits", "model_folder", "model_names"]

from pathlib import Path


def assets_folder() -> Path:
    """The folder with `models/` and `examples/`."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_assets", here.parent / "assets"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the bundled assets are missing: neither {here / '_assets'} nor {here.parent / 'assets'}")


def model_names() -> list[str]:
    """Names of the bundled models."""
    return sorted(folder.name for folder in (assets_folder() / "models").glob("*") if folder.is_dir())


def model_folder(name: str) -> Path:
    """Folder of a bundled model, for example "tiny-judge"."""
    folder = assets_folder() / "models" / name
    if name not in model_names():
        from mmreward.reward import unknown

        raise unknown("bundled model", name, model_names())
    return folder


def example_edits() -> Path:
    """The bundled example edits, as a file that `mmreward score` reads."""
    return assets_folder() / "examples" / "edits.jsonl"
