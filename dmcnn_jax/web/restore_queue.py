"""The queue of uploads to the local page; one is restored at a time."""

from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager

from dmcnn_jax.web.choices import Choices
from dmcnn_jax.web.upload import Restore, Restored

Work = Future[Restored]
"""A restoration in progress; its result is that of a `Restore` function."""


class RestoreQueue:
    """A queue that restores uploads one at a time, in the order of their complete arrival.

    Args:
        restore: restores an upload, in the queue's thread.
        places: how many uploads may be in transfer, waiting or being restored at once.
    """

    def __init__(self, restore: Restore, places: int) -> None:
        self.places = places
        self._restore = restore
        self._taken: list[Place] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="restore")

    @contextmanager
    def place(self) -> Iterator["Place | None"]:
        """Yields a place, which is freed at the end of the block; None if all are taken."""
        if len(self._taken) >= self.places:
            yield None
            return
        place = Place(self)
        self._taken.append(place)
        try:
            yield place
        finally:
            self._taken.remove(place)
            place.leave()

    def submit(self, place: "Place", data: bytes, choices: Choices, preview: bool) -> Work:
        """Queues an upload behind those that arrived completely before it."""
        self._taken.remove(place)
        self._taken.insert(sum(other.submitted for other in self._taken), place)
        return self._thread.submit(self._restore, data, choices, preview, place.progress)

    def before(self, place: "Place") -> int:
        """Returns the number of uploads ahead of one."""
        return self._taken.index(place)


class Place:
    """The place of one request in the queue.

    Attributes:
        done: completed share of its restoration, 0 to 1.
    """

    def __init__(self, queue: RestoreQueue) -> None:
        self.done = 0.0
        self._queue = queue
        self._work: Work | None = None
        self._left = False

    @property
    def submitted(self) -> bool:
        """Whether the upload has arrived completely."""
        return self._work is not None

    def submit(self, data: bytes, choices: Choices, *, preview: bool = False) -> Work:
        """Hands an upload to the queue and returns its restoration.

        Args:
            data: the file.
            choices: how it is restored and written.
            preview: whether to make a picture for browsers if they can't show the result.
        """
        self._work = self._queue.submit(self, data, choices, preview)
        return self._work

    def before(self) -> int:
        """Returns the number of uploads ahead of this one."""
        return self._queue.before(self)

    def progress(self, share: float) -> None:
        """Adds to `done`; raises CancelledError if the client has disconnected."""
        if self._left:
            raise CancelledError("the client has disconnected")
        self.done = min(1.0, self.done + share)

    def leave(self) -> None:
        """Cancels the restoration; a running one ends at its next call of `progress`."""
        self._left = True
        if self._work:
            self._work.cancel()
