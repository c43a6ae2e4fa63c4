#!/usr/bin/env python
"""Measures how fast training and restoring are, beside the same network in PyTorch if it is there.

    python tools/benchmark.py -o benchmark                 benchmark.md and benchmark.json
    python tools/benchmark.py --only train restore --rounds 9
    python tools/benchmark.py --max-side 1024 --features 24

Interrupted, it writes what it has. An idle machine says most; on another, the CPU seconds and the
ratios within rounds still mean something.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Two frameworks share the device's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import numpy as np

from dmcnn_jax import benchmark
from dmcnn_jax.atomic import write_file


def main() -> None:
    """The command line; an error that a user can mend is one line and exit status 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-o", "--output", default="benchmark", help="files, without extension (%(default)s)")
    add("--only", nargs="+", choices=benchmark.SECTIONS, default=benchmark.SECTIONS)
    add("--quick", action="store_true", help="the least of everything, to see that it works")
    add("--no-torch", action="store_true", help="nothing beside")
    add("--max-side", type=int, help="of images whose cost is measured by area, pixels")
    for field in ("features", "patch", "batch", "rounds"):
        add(f"--{field}", type=int, help="default: what suits the machine")
    add("--dtypes", nargs="+", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    try:
        settings, peer = _settings(options), None if options.no_torch else _peer()
        results = _run(options, settings, peer)
    except (ValueError, OSError) as error:
        sys.exit(f"benchmark: {error}")
    if results is None:
        sys.exit(130)


def _settings(options: argparse.Namespace) -> benchmark.Settings:
    kind = benchmark.Settings
    settings = kind.quick() if options.quick else kind.of_machine()
    for field in ("features", "patch", "batch", "rounds"):
        value = getattr(options, field)
        if value is not None and value < 1:
            raise ValueError(f"--{field} is {value}; expected at least 1")
        if value is not None:
            settings = dataclasses.replace(settings, **{field: value})
    if settings.patch % 8:
        raise ValueError(f"--patch is {settings.patch}; expected a multiple of 8")
    if options.dtypes:
        settings = dataclasses.replace(settings, dtypes=tuple(options.dtypes))
    if options.max_side is not None:
        sides = tuple(side for side in settings.sides if side <= options.max_side)
        if not sides:
            raise ValueError(
                f"--max-side is {options.max_side}; expected at least {settings.sides[0]}"
            )
        settings = dataclasses.replace(settings, sides=sides)
    return settings


def _run(options: argparse.Namespace, settings: benchmark.Settings, peer: Any) -> Any:
    """The results, or None if it was interrupted; either way they are written."""
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    runs = benchmark.Benchmark(settings, peer, say)
    whole = True
    try:
        runs.run(options.only, f"{output}.json")
    except KeyboardInterrupt:
        whole = False
    text = benchmark.to_markdown(runs.results)
    write_file(f"{output}.md", (text + "\n").encode())
    print(text)
    say(f"{'written' if whole else 'interrupted; what there is was written'} to {output}.md, .json")
    return runs.results if whole else None


def _peer() -> Any:
    try:
        return Torch()
    except ImportError as error:
        print(f"nothing to compare with: {error}", file=sys.stderr)
        return None


class Torch:
    """The same network in PyTorch: channels last, and on a GPU also compiled."""

    def __init__(self):
        import torch
        import torch_dmcnn

        self._torch, self._network = torch, torch_dmcnn.DMCNN
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.version = f"PyTorch {torch.__version__}"
        torch.backends.cudnn.benchmark = True

    def steps(
        self, features: int, dtypes: Sequence[str], batch: Mapping[str, np.ndarray]
    ) -> dict[str, tuple[Callable, Callable]]:
        """Training steps on one batch, which is on the device: forward, backward, Adam."""
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
        """The network over a whole plane, in inference mode, from and to arrays of the host."""
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
        """Equation 7."""
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
