"""Progress of long computations, for callbacks."""

from collections.abc import Callable

Progress = Callable[[float], None]
"""Receives the share of the work, 0 to 1, done since its last call; all shares add up to 1.

It receives 0 between steps that have no share. An exception that it raises ends the work.
"""


def check(progress: Progress | None) -> None:
    """Calls a callback, if there is one, with 0, so that it can end the work."""
    if progress:
        progress(0.0)


def scaled(progress: Progress | None, share: float) -> Progress | None:
    """Returns a callback for a part of the work, whose shares are multiplied by `share`."""
    return progress and (lambda done: progress(done * share))
