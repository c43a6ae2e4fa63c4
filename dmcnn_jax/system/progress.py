"""Progress of long computations, for callbacks."""

from collections.abc import Callable

Progress = Callable[[float], None]
"""Receives the share of the work, 0 to 1, done since its last call; all shares add up to 1.

Between steps that have no share it receives 0. What it raises ends the work.
"""


def check(progress: Progress | None) -> None:
    """Gives a callback, if there is one, the occasion to end the work."""
    if progress:
        progress(0.0)


def scaled(progress: Progress | None, share: float) -> Progress | None:
    """Returns a callback for a part of the work that is a share of the whole."""
    return progress and (lambda done: progress(done * share))
