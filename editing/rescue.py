"""Before an error ends a run, what was trained is saved.

The checkpoint is that of the last whole iteration. Nothing of an iteration moves the weights before its first update,
so where the error came before that, a run that is resumed from it equals one that never failed. Updates that were made
already are kept in the weights, and the iteration is made again.
"""

__all__ = ["saved_before_errors"]

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from editing.processes import Processes
from editing.state import Counters, State, save
from mmreward.training import CheckpointError, Interrupted
from mmreward.training.checkpoint import latest_checkpoint


@contextmanager
def saved_before_errors(
    state: State, whole: Callable[[], Counters], folder: Path, processes: Processes, say: Callable[[str], None]
) -> Iterator[None]:
    """An error inside the `with` comes out of it after a checkpoint, if there is none of that iteration yet; `say`
    tells people. The first process writes it and asks nothing of the others, which may be gone.

    Args:
        whole: the counters when the last iteration was whole.
    """
    try:
        yield
    except (Interrupted, CheckpointError):
        raise
    except Exception:
        if processes.main and state.iteration and latest_checkpoint(folder) != state.iteration:
            say(_rescue(state, whole(), folder, processes))
        raise


def _rescue(state: State, whole: Counters, folder: Path, processes: Processes) -> str:
    """Saves what can be saved, and says what that is."""
    lost = f"what was trained since the last checkpoint in {folder} is lost"
    if state.recipe.policy.shard:
        return f"{lost}: the network lies in parts on several processes"
    if not state.policies.finite():
        return f"{lost}: its weights are not finite"
    more = state.updater.updates - whole.values["updates"]
    at = replace(whole, values={**whole.values, "updates": state.updater.updates})
    try:
        save(state, folder, processes, at, alone=True)
    except CheckpointError as error:
        return str(error)
    part = f", with {more} updates of the next" if more else ""
    return f"saved before the error: iteration {state.iteration}{part}, in {folder}; --resume goes on from it"
