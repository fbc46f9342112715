"""Silence while a model is loaded: transformers draws bars for the weights and remarks on odd keys of configurations
(rope parameters for example), which mean nothing to those who score with it.
"""

__all__ = ["quiet_loading"]

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Within it transformers writes errors only and draws no bars. Afterwards both are as they were; they belong to the
    whole process, and to models of the caller's own.
    """
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    verbosity, bars, hub_bars = logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        (disable_progress_bars if hub_bars else enable_progress_bars)()
