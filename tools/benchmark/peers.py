"""The same network in PyTorch, in processes of its own, which wait while others are measured."""

import importlib.util
import math
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import jax
import numpy as np

from benchmark.processes import environment
from benchmark.timing import Call
from dmcnn_jax.system import malloc


class TorchPeers:
    """Processes that run PyTorch.

    On a CPU under Linux there are two: one with PyTorch's usual memory allocation, and one whose
    allocator keeps freed memory, as `dmcnn_jax.system.malloc` sets it for our commands. On a GPU,
    PyTorch runs there as well. The processes import PyTorch while this one goes on.

    Raises:
        ImportError: if PyTorch is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("torch") is None:
            raise ImportError("PyTorch is not installed")
        device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        self._workers = {"": _Worker(device, {})}
        if device == "cpu" and sys.platform == "linux":
            self._workers[", memory kept,"] = _Worker(device, malloc.VARIABLES)

    @property
    def version(self) -> str:
        """Version of PyTorch, in words.

        Raises:
            ImportError: if PyTorch can't be imported, or finds no GPU where JAX has one.
        """
        return next(worker.version() for worker in self._workers.values())

    def answer_by(self, moment: float) -> None:
        """Ends the processes if they don't answer by then, as `time.monotonic` counts."""
        for worker in self._workers.values():
            worker.answer_by = moment

    def steps(
        self,
        features: int,
        dtypes: tuple[str, ...],
        batch: Mapping[str, np.ndarray],
        *,
        compiled: bool = False,
    ) -> dict[str, Call]:
        """Returns training steps, see `torch_peer.Torch.steps`."""
        return self._calls("steps", features, dtypes, batch, compiled)

    def restorers(
        self,
        features: int,
        dtypes: tuple[str, ...],
        k: np.ndarray,
        q: np.ndarray,
        *,
        compiled: bool = False,
    ) -> dict[str, Call]:
        """Returns calls that restore a plane, see `torch_peer.Torch.restorers`."""
        return self._calls("restorers", features, dtypes, k, q, compiled)

    def cpu_seconds(self) -> float:
        """Returns the CPU seconds that all processes have used so far."""
        return sum(worker.cpu for worker in self._workers.values())

    def _calls(self, method: str, *arguments: Any) -> dict[str, Call]:
        return {
            name.replace(" ", f"{label} ", 1): _remote_call(worker, name)
            for label, worker in self._workers.items()
            for name in worker.ask(method, *arguments)
        }


def _remote_call(worker: "_Worker", name: str) -> Call:
    """Returns a call that the worker starts, and a function that waits until its GPU is done."""
    return lambda: worker.ask("call", name), lambda _: worker.ask("wait")


class _Worker:
    """A process that runs torch_peer.py.

    Args:
        device: "cpu" or "cuda".
        variables: environment variables to set.

    Attributes:
        cpu: CPU seconds that it has used so far.
        answer_by: when it is ended if it has not answered, as `time.monotonic` counts.
    """

    def __init__(self, device: str, variables: Mapping[str, str]):
        script = Path(__file__).with_name("torch_peer.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), "--serve", "--device", device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(variables),
        )
        self.cpu = 0.0
        self.answer_by = math.inf
        self._version = ""

    def version(self) -> str:
        """Returns the version of PyTorch, its first answer, for which it may have to wait."""
        self._version = self._version or self._answer()
        return self._version

    def ask(self, *question: Any) -> Any:
        """Sends a question and waits for the answer.

        Raises:
            ImportError: if the process can't run PyTorch.
            RuntimeError: if it failed, has ended, or was ended since it had not answered in time.
        """
        self.version()
        stdin = cast(IO[bytes], self._process.stdin)
        try:
            pickle.dump(question, stdin)
            stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(_ENDED) from None
        return self._answer()

    def _answer(self) -> Any:
        timer = None
        if math.isfinite(self.answer_by):
            left = max(0.0, self.answer_by - time.monotonic())
            timer = threading.Timer(left, self._process.kill)
            timer.start()
        try:
            kind, answer, self.cpu = pickle.load(cast(IO[bytes], self._process.stdout))
        except EOFError:
            late = time.monotonic() >= self.answer_by
            raise RuntimeError("PyTorch did not answer in time" if late else _ENDED) from None
        finally:
            if timer:
                timer.cancel()
        if kind == "missing":
            raise ImportError(answer)
        if kind == "failed":
            raise RuntimeError(answer)
        return answer


_ENDED = "the process that runs PyTorch has ended"
