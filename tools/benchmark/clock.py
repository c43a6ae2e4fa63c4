"""A clock for the parts of a short process. Imports nothing slow, since imports are measured."""

import json
import time

STARTED = time.monotonic()
"""When this process imported this file, before slower ones."""


class Clock:
    """A stopwatch for the consecutive parts of a process.

    Attributes:
        parts: seconds by part, in order.
    """

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, part: str) -> None:
        """Ends a part: its time is what has passed since the previous one ended."""
        now = time.perf_counter()
        self.parts[part], self._last = now - self._last, now

    def report(self) -> None:
        """Prints the parts as one line of JSON."""
        print(json.dumps(self.parts))
