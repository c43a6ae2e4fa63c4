"""Restores one photograph as `dmcnn-restore` does, and prints how long each part took.

    python tools/benchmark/restore_process.py '"photo.jpg"' '"restored.png"'

Arguments are JSON.
"""

import importlib
import json
import sys

from benchmark.clock import Clock


def main(photo: str, output: str) -> None:
    """Restores `photo` to `output`; imports stand where the command's own are executed."""
    clock = Clock()
    importlib.import_module("dmcnn_jax.cli.restore")
    from dmcnn_jax.system.compile_cache import enable_compilation_cache

    clock.end("command")
    import jax

    enable_compilation_cache()
    clock.end("jax")
    importlib.import_module("flax.linen")
    clock.end("flax")
    from dmcnn_jax import jpeg
    from dmcnn_jax.restoration.restorer import Restorer

    clock.end("package")
    file = jpeg.read(photo)
    clock.end("reading")
    jax.devices()
    clock.end("device")
    restorer = Restorer()
    clock.end("weights")
    planes = restorer.restore_planes(file)
    clock.end("first network")
    restoration = restorer.render(planes)
    clock.end("pixels")
    from PIL import Image

    Image.fromarray(restoration.pixels).save(output)
    clock.end("writing")
    clock.report()


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
