"""Training algorithms, one paper a file: a pure loss and a declaration of what it needs. A new one is a line here."""

__all__ = ["ALGORITHMS"]

ALGORITHMS: dict[str, str] = {"grpo": "editing.algorithms.grpo:GRPO"}
"""Name -> `module:class`; the class is a pydantic model of the algorithm's settings (see `algorithm.py`)."""
