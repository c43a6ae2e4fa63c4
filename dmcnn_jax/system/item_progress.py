"""Shows the progress of a loop over items: a bar on a terminal, lines in a file."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LINES_EVERY = 30
"""Seconds between the lines written to a file."""


def show_progress(
    items: Iterable[Item],
    total: int | None = None,
    unit: str = "image",
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Item]:
    """Yields items, and shows the number done on standard error.

    A terminal shows a bar, which disappears at the end; a file gets a line every half minute.

    Args:
        items: the items.
        total: number of items; None if unknown.
        unit: name of an item, for display.
        clock: returns seconds.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, unit=unit, leave=False)
        return
    of = "" if total is None else f" of {total:,}"
    written = clock()
    for done, item in enumerate(items, 1):
        yield item
        if clock() - written >= LINES_EVERY:
            written = clock()
            print(f"{unit} {done:,}{of}", file=sys.stderr, flush=True)
