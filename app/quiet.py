"""Silence for messages of libraries that say nothing to the people who run a command: their own progress bars, and
warnings about a slower kernel.
"""

__all__ = ["quiet"]

import warnings


def quiet() -> None:
    """Call before models are loaded."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
