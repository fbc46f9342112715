"""torch.compile where this machine can do it: a small network's operations fused, 1.7 times as fast on a CPU.

    compile_in_place(module)        # the names of its weights stay as they are

It takes about a minute at the first batch and needs a C++ compiler and Python's headers (Debian: `g++ python3-dev`).
Without them the module runs as it is, only slower, and a log line says so.
"""

from __future__ import annotations

__all__ = ["COMPILING", "compile_in_place", "is_compiled", "lacking"]

import logging
import os
import shutil
import sysconfig
from pathlib import Path

from torch import nn

_LOG = logging.getLogger(__name__)

COMPILING = "compiling the network (once, about a minute)"
"""What a run says while its first batch compiles."""


def compile_in_place(module: nn.Module) -> bool:
    """Compile `module`'s forward and backward passes, one version per shape; False where the tools are missing."""
    missing = lacking()
    if missing:
        _LOG.warning("loop.compile: %s not found, so training runs uncompiled (slower, otherwise the same)", missing)
        return False
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of CUDA compilers without a GPU
    module.compile(dynamic=False)
    return True


def is_compiled(module: nn.Module) -> bool:
    """Whether `compile_in_place` did."""
    return module._compiled_call_impl is not None


def lacking() -> str | None:
    """What torch.compile needs and this machine does not have."""
    compilers = [os.environ.get("CXX"), "g++", "clang++"]
    if not any(name and shutil.which(name) for name in compilers):
        return "a C++ compiler (g++)"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Python.h (Debian's python3-dev)"
    return None
