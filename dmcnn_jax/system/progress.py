"""Progress of long computations, for callbacks."""

from collections.abc import Callable

Progress = Callable[[float], None]
"""Receives the share of the work, 0 to 1, done since its last call; all shares add up to 1."""


def scaled(progress: Progress | None, share: float) -> Progress | None:
    """Returns a callback for a part of the work that is a share of the whole."""
    return progress and (lambda done: progress(done * share))
