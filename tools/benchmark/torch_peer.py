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
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    serve(parser.parse_args().device)


def serve(device: str) -> None:
    """Sends the version of PyTorch, then answers requests until standard input ends.

    Args:
        device: "cpu" or "cuda".
    """
    # Standard output is for answers only, so what libraries print goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(kind: str, content: Any) -> None:
        pickle.dump((kind, content, time.process_time()), answers)
        answers.flush()

    try:
        peer = Torch(device)
    except (ImportError, OSError) as error:
        answer("missing", str(error))
        return
    answer("hello", peer.version)
    calls: dict[str, Callable] = {}
    while True:
        try:
            method, *arguments = pickle.load(sys.stdin.buffer)
        except (EOFError, KeyboardInterrupt):
            return
        try:
            if method in ("call", "wait"):
                calls[arguments[0]]() if arguments else peer.wait()
                answer("done", None)
            else:
                made = getattr(peer, method)(*arguments)
                calls.update(made)
                answer("names", list(made))
        except Exception as error:  # such as too little memory, or no compiler for torch.compile
            answer("failed", f"{type(error).__name__}: {error}")


class Torch:
    """The same network in PyTorch, channels last.

    Args:
        device: "cpu" or "cuda".

    Attributes:
        version: of PyTorch, in words.

    Raises:
        ImportError: if PyTorch is not installed, or can't use the device.
    """

    def __init__(self, device: str) -> None:
        import torch

        from dmcnn_jax.export import torch_dmcnn

        self._torch = torch
        # Its stubs lack `memory_format`.
        self._network: Any = torch_dmcnn.DMCNN
        self.version = f"PyTorch {torch.__version__}"
        if device == "cuda" and not torch.cuda.is_available():
            raise ImportError(f"JAX runs on a GPU, and {self.version} finds none")
        self._device = device
        torch.backends.cudnn.benchmark = True

    def steps(
        self,
        features: int,
        dtypes: Sequence[str],
        batch: Mapping[str, np.ndarray],
        compiled: bool,
    ) -> dict[str, Callable]:
        """Returns training steps on one batch on the device: forward, backward, Adam.

        What `dmcnn_jax` does besides is left out: making pairs, the average of weights, and PSNR.

        Args:
            features: F, the network's width.
            dtypes: to compute in; bfloat16 is that of `torch.autocast`.
            batch: "coefficients", "table" and "original", see `inputs.make_batch`.
            compiled: whether the network is compiled by `torch.compile`.
        """
        torch = self._torch
        k, q = (
            torch.from_numpy(batch[n].copy()).to(self._device) for n in ("coefficients", "table")
        )
        original = torch.from_numpy(batch["original"].copy()).to(self._device)[:, None] / 255

        def make(dtype: str) -> Callable:
            model = self._model(features)
            fused = self._device == "cuda"
            optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=fused or None)
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

        return {_name(dtype, compiled): make(dtype) for dtype in dtypes}

    def restorers(
        self,
        features: int,
        dtypes: Sequence[str],
        k: np.ndarray,
        q: np.ndarray,
        compiled: bool,
    ) -> dict[str, Callable]:
        """Returns calls that restore a plane in inference mode, from and to host arrays.

        The plane is not cut into tiles.

        Args:
            features: F, the network's width.
            dtypes: as in `steps`.
            k: coefficients of the plane, [H/8, W/8, 64].
            q: its table, [8, 8].
            compiled: as in `steps`.
        """
        torch = self._torch

        def make(dtype: str) -> Callable:
            model = self._model(features).eval()
            forward = torch.compile(model) if compiled else model

            def restore() -> Any:
                with torch.inference_mode(), self._autocast(dtype):
                    arrays = (torch.from_numpy(a.copy())[None].to(self._device) for a in (k, q))
                    return forward(*arrays)["image"].float().cpu()

            return restore

        return {_name(dtype, compiled): make(dtype) for dtype in dtypes}

    def wait(self) -> None:
        """Waits until the GPU has done what was started."""
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def _model(self, features: int) -> Any:
        torch = self._torch
        torch.manual_seed(0)
        model = self._network(features=features)
        return model.to(self._device, memory_format=torch.channels_last)

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


def _name(dtype: str, compiled: bool) -> str:
    return f"torch.compile {dtype}" if compiled else f"torch {dtype}"


if __name__ == "__main__":
    main()
