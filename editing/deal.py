"""Which tasks share an iteration or a batch: those whose edits have one size.

A batch has one resolution, and photos have any shape. The rows of a file are therefore dealt in piles, one a bucket of
the editor: an iteration gets tasks of one pile, the piles take turns in proportion to their rows, and each deals its
rows in a new order each time around. What iteration n gets depends on the file, the editor and n alone, so a resumed
run is dealt the same, and so is every process of several. Other tasks, and files with one bucket, come in their own
order.

    dealer = Dealer(tasks, editor, groups)
    dealer.tasks(iteration)
"""

__all__ = ["Dealer", "batches"]

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np

from editing.data import FileTasks, Task, Tasks, shuffled
from editing.editors.editor import Editor
from mmreward.score import Failure


class Dealer:
    """Deals `count` tasks an iteration. Opens each source's header once, at the start; one that has none is in no pile.

    A pile with fewer rows than `count` deals some of them twice in one iteration; they are one larger group then.

    Args:
        gather: what each of several processes gives, in all of them: they leave out the same rows.
    """

    def __init__(
        self,
        tasks: Tasks,
        editor: Editor,
        count: int,
        gather: Callable[[list[int]], list[list[int]]] = lambda own: [own],
    ) -> None:
        self.all, self.count = tasks, count
        self.piles: dict[tuple[int, int], list[int]] = defaultdict(list)
        if isinstance(tasks, FileTasks):
            sizes = [tasks.size(number) for number in range(len(tasks.rows))]
            headless = [number for number, size in enumerate(sizes) if isinstance(size, Failure)]
            left_out = {number for numbers in gather(headless) for number in numbers}
            for number, size in enumerate(sizes):
                if number not in left_out and not isinstance(size, Failure):
                    self.piles[editor.edit_size(*size)].append(number)
        self._turns: list[tuple[tuple[int, int], int]] = []
        self._dealt: dict[tuple[int, int], int] = defaultdict(int)

    def tasks(self, iteration: int, places: Sequence[int] | None = None) -> list[Task]:
        """The tasks of one iteration, from 0 on; with `places` some of its `count`, the only ones that are opened."""
        places = range(self.count) if places is None else places
        if not isinstance(self.all, FileTasks) or len(self.piles) < 2:
            return [self.all.task(iteration * self.count + place) for place in places]
        size, turn = self._turn(iteration)
        pile = np.array(self.piles[size])
        found = []
        for place in places:
            around, position = divmod(turn * self.count + place, len(pile))
            order = pile[shuffled(len(pile), self.all.seed, around, *size)]
            found.append(self.all.dealt(order, position, around))
        return found

    def _turn(self, iteration: int) -> tuple[tuple[int, int], int]:
        """The pile of an iteration, and how many it has dealt before: always the one that is furthest behind."""
        total = sum(map(len, self.piles.values()))
        while len(self._turns) <= iteration:
            due = (len(self._turns) + 1) / total
            size = max(sorted(self.piles), key=lambda size: len(self.piles[size]) * due - self._dealt[size])
            self._turns.append((size, self._dealt[size]))
            self._dealt[size] += 1
        return self._turns[iteration]


def batches(sizes: Sequence[Hashable], most: int) -> Iterator[list[int]]:
    """Numbers of rows of one size together, at most `most` at once; the order of the rows inside a size is kept."""
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for row, size in enumerate(sizes):
        rows[size].append(row)
    for same in rows.values():
        yield from (same[start : start + most] for start in range(0, len(same), most))
