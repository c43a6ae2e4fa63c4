"""The benchmark's peer in PyTorch: takes requests on standard input and answers on standard output.

Both are pickles; `python tools/benchmark` starts this with --serve. It is a process of its own, so
that the two frameworks don't share threads and memory.
"""

import argparse
import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def main() -> None:
    """Parses the command line and serves requests."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serve", action="store_true", required=True, help="serve requests")
    parser.parse_args()
    serve()


def serve() -> None:
    """Sends version and device, then answers requests until standard input ends."""
    # Standard output is for answers only, so what libraries print goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(kind: str, content: Any) -> None:
        pickle.dump((kind, content, time.process_time()), answers)
        answers.flush()

    try:
        peer = Torch()
    except ImportError as error:
        answer("error", str(error))
        return
    answer("hello", (peer.version, peer.device))
    calls: dict[str, tuple[Callable, Callable]] = {}
    while True:
        try:
            method, *arguments = pickle.load(sys.stdin.buffer)
        except (EOFError, KeyboardInterrupt):
            return
        if method == "call":
            call, wait = calls[arguments[0]]
            wait(call())
            answer("done", None)
        else:
            made = getattr(peer, method)(*arguments)
            calls.update(made)
            answer("names", list(made))


class Torch:
    """The same network in PyTorch: channels last, and on a GPU also compiled.

    Attributes:
        device: "cpu" or "cuda".
        version: of PyTorch, in words.
    """

    def __init__(self) -> None:
        import torch

        from dmcnn_jax.export import torch_dmcnn

        self._torch = torch
        # Its stubs lack `memory_format`.
        self._network: Any = torch_dmcnn.DMCNN
        self.device = self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.version = f"PyTorch {torch.__version__}"
        torch.backends.cudnn.benchmark = True

    def steps(
        self, features: int, dtypes: Sequence[str], batch: Mapping[str, np.ndarray]
    ) -> dict[str, tuple[Callable, Callable]]:
        """Returns training steps on one batch on the device: forward, backward, Adam."""
        torch = self._torch
        k, q = (
            torch.from_numpy(batch[n].copy()).to(self._device) for n in ("coefficients", "table")
        )
        original = torch.from_numpy(batch["original"].copy()).to(self._device)[:, None] / 255

        def make(dtype: str, compiled: bool) -> Callable:
            model = self._model(features)
            optimizer = torch.optim.Adam(model.parameters(), 1e-4)
            forward = torch.compile(model) if compiled else model

            def step() -> Any:
                with self._autocast(dtype):
                    estimates = forward(k, q)
                loss = self._loss(estimates, original)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                return loss

            return step

        return self._each(dtypes, make)

    def restorers(
        self, features: int, dtypes: Sequence[str], k: np.ndarray, q: np.ndarray
    ) -> dict[str, tuple[Callable, Callable]]:
        """Returns calls that restore a whole plane in inference mode, from and to host arrays."""
        torch = self._torch

        def make(dtype: str, compiled: bool) -> Callable:
            model = self._model(features).eval()
            forward = torch.compile(model) if compiled else model

            def restore() -> Any:
                with torch.inference_mode(), self._autocast(dtype):
                    arrays = (torch.from_numpy(a.copy())[None].to(self._device) for a in (k, q))
                    return forward(*arrays)["image"].float().cpu()

            return restore

        return self._each(dtypes, make)

    def _each(self, dtypes: Sequence[str], make: Callable) -> dict[str, tuple[Callable, Callable]]:
        calls = {f"torch {dtype}": (make(dtype, False), self._wait) for dtype in dtypes}
        if self._device == "cuda":
            calls |= {f"torch.compile {d}": (make(d, True), self._wait) for d in dtypes}
        return calls

    def _model(self, features: int) -> Any:
        torch = self._torch
        torch.manual_seed(0)
        return self._network(features=features).to(self._device, memory_format=torch.channels_last)

    def _autocast(self, dtype: str) -> Any:
        enabled = dtype == "bfloat16"
        return self._torch.autocast(self._device, self._torch.bfloat16, enabled=enabled)

    def _loss(self, estimates: Mapping[str, Any], original: Any) -> Any:
        """Returns the loss of equation 7 of the paper."""
        functional = self._torch.nn.functional
        loss = 0.9 * functional.mse_loss(estimates["dct"].float(), original)
        for i, name in enumerate(("image", "half", "quarter")):
            reduced = functional.avg_pool2d(original, 2**i)
            loss = loss + 0.618**i * functional.mse_loss(estimates[name].float(), reduced)
        return loss

    def _wait(self, result: Any) -> None:
        if self._device == "cuda":
            self._torch.cuda.synchronize()


if __name__ == "__main__":
    main()
