"""What any training needs and nothing else: loop, settings, checkpoints, log."""

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "FitResult",
    "Group",
    "Interrupted",
    "JsonlLog",
    "LoopConfig",
    "Loss",
    "Progress",
    "Together",
    "TrainingError",
    "check_weights",
    "fit",
    "load_checkpoint",
    "read_config",
    "read_log",
    "save_atomic",
    "save_checkpoint",
]

from mmreward.config import ConfigError, read_config
from mmreward.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    check_weights,
    load_checkpoint,
    save_atomic,
    save_checkpoint,
)
from mmreward.training.config import LoopConfig
from mmreward.training.log import JsonlLog, Progress, read_log
from mmreward.training.loop import FitResult, Interrupted, Loss, fit
from mmreward.training.optim import Group, TrainingError
from mmreward.training.together import Together
