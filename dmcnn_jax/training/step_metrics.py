"""The scalars of training steps, on their way from the device to the log."""

import math
from collections.abc import Mapping, Sequence

import jax

# Steps that may be queued on the device before the host waits for one to finish.
_MAX_QUEUED_STEPS = 2


class StepMetrics:
    """A buffer of training steps' scalars, which are averaged for a line of the log."""

    def __init__(self) -> None:
        self._pending: list[Mapping[str, jax.Array | float]] = []

    def add(self, scalars: Mapping[str, jax.Array]) -> None:
        """Adds a step's scalars, and waits while too many steps are queued.

        A few queued steps keep the device busy. With more, the progress bar would run ahead of the
        computation, and a signal would have to wait for all of them: a CPU queues up to 32.
        """
        self._pending.append(scalars)
        if len(self._pending) > _MAX_QUEUED_STEPS:
            jax.block_until_ready(self._pending[-1 - _MAX_QUEUED_STEPS])

    def fetch(self) -> list[dict[str, float]]:
        """Returns the scalars of all steps since the last `means`, as Python numbers."""
        fetched = [
            {key: float(value) for key, value in scalars.items()}
            for scalars in jax.device_get(self._pending)
        ]
        self._pending = list(fetched)
        return fetched

    def restore(self, fetched: Sequence[Mapping[str, float]]) -> None:
        """Replaces the scalars by those that `fetch` returned when a checkpoint was saved."""
        self._pending = list(fetched)

    def means(self, pixels: int) -> dict[str, float]:
        """Returns the means over all steps since the last call, and forgets them.

        Args:
            pixels: number of pixels in a batch. PSNRs are limited to its `max_psnr`, since a batch
                without error would have an infinite PSNR.

        Returns:
            Mean of each scalar; empty if there was no step.
        """
        fetched, limit = self.fetch(), max_psnr(pixels)
        self._pending = []
        return {
            key: math.fsum(
                min(scalars[key], limit) if key.endswith("psnr") else scalars[key]
                for scalars in fetched
            )
            / len(fetched)
            for key in (fetched[0] if fetched else ())
        }


def max_psnr(pixels: int) -> float:
    """Returns the PSNR of 8-bit pixels of which one is wrong by one grey level, dB."""
    return 10 * math.log10(255**2 * pixels)
