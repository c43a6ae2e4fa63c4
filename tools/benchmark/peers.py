"""The same network in PyTorch, in processes of its own, which wait while others are measured."""

import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from benchmark.processes import environment
from benchmark.timing import Call
from dmcnn_jax.system import malloc


class TorchPeers:
    """Processes that run PyTorch.

    On a CPU under Linux there are two: one with PyTorch's usual memory allocation, and one whose
    allocator keeps freed memory, as `dmcnn_jax.system.malloc` sets it for our commands.

    Attributes:
        version: of PyTorch, in words.

    Raises:
        ImportError: if PyTorch is not installed.
    """

    def __init__(self) -> None:
        self._workers = {"torch": _Worker({})}
        self.version, device = self._workers["torch"].hello
        if device == "cpu" and sys.platform == "linux":
            self._workers["torch, memory kept,"] = _Worker(malloc.VARIABLES)

    def steps(
        self, features: int, dtypes: tuple[str, ...], batch: Mapping[str, np.ndarray]
    ) -> dict[str, Call]:
        """Returns training steps, see `torch_peer.Torch.steps`."""
        return self._calls("steps", features, dtypes, batch)

    def restorers(
        self, features: int, dtypes: tuple[str, ...], k: np.ndarray, q: np.ndarray
    ) -> dict[str, Call]:
        """Returns calls that restore a plane, see `torch_peer.Torch.restorers`."""
        return self._calls("restorers", features, dtypes, k, q)

    def cpu_seconds(self) -> float:
        """Returns the CPU seconds that all processes have used so far."""
        return sum(worker.cpu for worker in self._workers.values())

    def _calls(self, method: str, *arguments: Any) -> dict[str, Call]:
        return {
            name.replace("torch", label, 1): _remote_call(worker, name)
            for label, worker in self._workers.items()
            for name in worker.ask(method, *arguments)
        }


def _remote_call(worker: "_Worker", name: str) -> Call:
    """Returns a call that has ended when the worker answers."""
    return lambda: worker.ask("call", name), lambda _: None


class _Worker:
    """A process that runs torch_peer.py.

    Attributes:
        cpu: CPU seconds that it has used so far.
        hello: its first answer: version and device.
    """

    def __init__(self, variables: Mapping[str, str]):
        script = Path(__file__).with_name("torch_peer.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(variables),
        )
        self.cpu = 0.0
        self.hello = self._answer()

    def ask(self, *question: Any) -> Any:
        """Sends a question and waits for the answer."""
        stdin = cast(IO[bytes], self._process.stdin)
        pickle.dump(question, stdin)
        stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        try:
            kind, answer, self.cpu = pickle.load(cast(IO[bytes], self._process.stdout))
        except EOFError:
            raise RuntimeError("the process that runs PyTorch has ended") from None
        if kind == "error":
            raise ImportError(answer)
        return answer
