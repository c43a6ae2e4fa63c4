#!/usr/bin/env python
"""Prints digests of what the package computes, to compare two versions of its code.

    python tools/fingerprint.py > before.txt
    python tools/fingerprint.py > after.txt
    diff before.txt after.txt

Twenty JPEG files (gray and colour, every chroma sampling, odd sizes, a resaved one, RGB) are
restored to 8 and 16 bits, every bundled model is exported to every format, and a small network is
trained for twenty steps. Digests are SHA-256 over pixels, arrays and files. They are reproducible
on one machine with the same dependencies and number of threads; elsewhere floating point rounds
differently.

The script uses only the package's public functions and commands, so that it runs in older checkouts
too.
"""

import argparse
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Imports take a moment, and NumPy prints a traceback of a KeyboardInterrupt in its own.
    signal.signal(
        signal.SIGINT,
        lambda *_: (os.write(2, b"\nfingerprint: interrupted\n"), os._exit(130)),
    )

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("restore", "export", "train")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one line per digest, and returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    chosen = parser.parse_args(argv).only
    sections = {"restore": restored_pictures, "export": exports, "train": training_steps}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for section in chosen:
                for name, digest in sections[section](Path(folder)):
                    print(f"{section:8} {digest[:32]}  {name}", flush=True)
    except RuntimeError as error:
        print(f"fingerprint: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # also a second one, while the folder is removed
        print("fingerprint: interrupted", file=sys.stderr)
        return 130
    return 0


def jpeg_files() -> Iterator[tuple[str, bytes]]:
    """Yields twenty JPEG files by name, made from photographs that come with scikit-image."""
    from skimage import data

    crops = {
        "astronaut": data.astronaut()[:203, 150:437],
        "coffee": data.coffee()[100:316, 60:259],
        "chelsea": data.chelsea()[:185, 100:333],
        "rocket": data.rocket()[200:361, 200:410],
    }
    gray = Image.fromarray(data.camera()[60:260, 100:301])
    for quality in (5, 10, 40, 75, 95):
        yield f"camera gray q{quality}", save(gray, quality=quality)
    for (name, pixels), quality in zip(crops.items(), (10, 30, 60, 90), strict=True):
        for subsampling in (0, 1, 2):
            picture = Image.fromarray(pixels)
            label = ("4:4:4", "4:2:2", "4:2:0")[subsampling]
            yield (
                f"{name} {label} q{quality}",
                save(picture, quality=quality, subsampling=subsampling),
            )
    again = Image.open(io.BytesIO(save(Image.fromarray(data.coffee()), quality=15)))
    yield "coffee q15, cropped, q92", save(again.crop((3, 5, 403, 305)), quality=92)
    yield "one pixel", save(Image.fromarray(data.camera()[:1, :1]), quality=20)
    rgb = save(Image.fromarray(crops["chelsea"]), quality=20, keep_rgb=True)
    yield "chelsea RGB q20", rgb


def save(picture: Image.Image, **options: Any) -> bytes:
    """Returns a JPEG file of a picture; `options` are Pillow's."""
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def restored_pictures(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields name and digest of each restored picture, through the public Python function."""
    import dmcnn_jax

    for name, file in jpeg_files():
        for size, bits in (("fast", 8), ("full", 16)):
            pixels = np.asarray(dmcnn_jax.restore(file, size=size, bits=bits, engine="jax"))
            digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes())
            yield f"{name}, {size}, {bits} bits", digest.hexdigest()


def exports(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields name and digest of each export that the command writes."""
    for weights in sorted((ROOT / "dmcnn_jax" / "weights").glob("*.safetensors")):
        for suffix in ("npz", "safetensors", "pt", "onnx", "stablehlo"):
            path = folder / f"{weights.stem}.{suffix}"
            tool = (ROOT / "tools" / "export_params.py", weights.stem, "-o", path)
            done = run(*map(str, tool))
            yield f"{path.name}", digest_of(path) if done.returncode == 0 else "refused"


def digest_of(path: Path) -> str:
    """Returns the digest of a file's content; of an archive, of its members' content."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            parts = [name.encode() + file[name].tobytes() for name in sorted(file.files)]
        return hashlib.sha256(b"".join(parts)).hexdigest()
    if path.suffix == ".pt":
        import torch

        state = torch.load(path, weights_only=True)
        about = repr(sorted(state.pop("_extra_state").items())).encode()
        parts = [name.encode() + state[name].numpy().tobytes() for name in sorted(state)]
        return hashlib.sha256(about + b"".join(parts)).hexdigest()
    if path.suffix == ".onnx":
        import onnx

        # Metadata name files and lines of this package's source, which may differ.
        model = onnx.load(path)
        for node in model.graph.node:
            del node.metadata_props[:]
        for function in model.functions:
            for node in function.node:
                del node.metadata_props[:]
        del model.graph.metadata_props[:]
        for value in (*model.graph.value_info, *model.graph.initializer, *model.graph.input):
            del value.metadata_props[:]
        return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    if path.suffix == ".stablehlo":
        from jax import export

        text = export.deserialize(path.read_bytes()).mlir_module()
        # Locations in this package's source are not part of the program.
        lines = [line for line in text.splitlines() if not line.startswith("#loc")]
        text = re.sub(r" loc\([^()]*(\([^()]*\)[^()]*)*\)", "", "\n".join(lines))
        return hashlib.sha256(text.encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def training_steps(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields the digests of the weights after twenty steps of two configurations."""
    for name, extra in (
        ("adam", []),
        ("muon, every table", ["--config.train.optimizer=muon", "--config.quality_range=(5,95)"]),
    ):
        workdir = folder / name.replace(",", "").replace(" ", "-")
        arguments = [
            *("-m", "dmcnn_jax.main", "--config", str(ROOT / "configs" / "quickstart.py")),
            *("--config.train.patch_sizes=(64,)", "--config.train.batch_sizes=(4,)"),
            *("--config.train.stage_steps=(20,)", "--config.train.validate_every=20"),
            *("--config.model.features=8", f"--workdir={workdir}", *extra),
        ]
        done = run(*arguments)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        from safetensors.numpy import load_file

        tensors = load_file(workdir / "last.safetensors")
        parts = [key.encode() + tensors[key].tobytes() for key in sorted(tensors)]
        yield f"twenty steps, {name}", hashlib.sha256(b"".join(parts)).hexdigest()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs this Python with the package of this checkout."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
