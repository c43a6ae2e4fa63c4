"""Measures how many bytes it takes to recover original JPEG files from restored ones.

    python tools/recipe_sizes.py FOLDER
    python tools/recipe_sizes.py FOLDER --save --limit 20

For each JPEG file of the folder another one is made as restoring makes it, but with random
coefficients inside the original's intervals, which takes no network. Prints how many originals are
rebuilt bit for bit from it and a recipe, and the recipes' sizes in bytes.

--save first saves each picture by Pillow in several ways, and measures these files instead.
"""

import argparse
import dataclasses
import io
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("recipe_sizes: interrupted")  # imports take seconds

import numpy as np
from PIL import Image
from tqdm import tqdm

from dmcnn_jax import jpeg
from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser
from dmcnn_jax.data.images import find_images
from dmcnn_jax.jpeg.coefficient_writer import MAX_MAGNITUDE, write_coefficients
from dmcnn_jax.jpeg.finer_table import round_coefficients
from dmcnn_jax.jpeg.recipe import split_recipe
from dmcnn_jax.jpeg.recoverable import replace_recoverably
from dmcnn_jax.jpeg.recovery import recover_original

STYLES = {
    f"quality {quality}, {subsampling}, {name}": {
        "quality": quality,
        "subsampling": subsampling,
    }
    | options
    for quality in (30, 75, 92)
    for subsampling in ("4:4:4", "4:2:0")
    for name, options in {
        "usual tables": {},
        "optimised tables": {"optimize": True},
        "restart markers": {"restart_marker_rows": 1},
    }.items()
}
STEP = 4
"""Of the restored files' tables."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    parser = command_parser(None, __doc__)
    parser.add_argument("folder", type=Path, help="folder with images")
    parser.add_argument("--save", action="store_true", help="save each image by Pillow first")
    parser.add_argument("--limit", type=int, help="number of images, evenly spread (default: all)")
    options = parser.parse_args(argv)
    return run_main("recipe_sizes", lambda: measure(options), argv)


def measure(options: argparse.Namespace) -> None:
    """Prints a line for each way of saving."""
    paths = list(find_images(options.folder).values())
    if options.limit:
        chosen = np.linspace(0, len(paths) - 1, min(options.limit, len(paths)))
        paths = [paths[int(index)] for index in chosen]
    found: dict[str, list[tuple[int, int | None]]] = {}
    for path in tqdm(paths, file=sys.stderr):
        for style, data in _files(path, options.save):
            found.setdefault(style, []).append((len(data), recipe_size(data)))
    width = max(map(len, found), default=0)
    print(f"{'':{width}}  files  rebuilt  median  largest  share of the file")
    for style, sizes in found.items():
        known = [(size, own) for size, own in sizes if own is not None]
        line = f"{style:{width}}  {len(sizes):5}  {len(known):7}"
        if known:
            median = statistics.median(own for _, own in known)
            share = statistics.median(own / size for size, own in known)
            line += f"  {median:6.0f}  {max(own for _, own in known):7}  {share:.2%}"
        print(line)


def recipe_size(data: bytes) -> int | None:
    """Returns the size of a file's recipe in bytes, None if it can't be rebuilt."""
    rng = np.random.default_rng(0)
    file = jpeg.read(data)
    components = []
    for each in file.components:
        old = each.table.reshape(64)
        table = np.minimum(old, STEP)
        k = each.coefficients.reshape(-1, 64)
        x = ((k + rng.uniform(-0.5, 0.5, k.shape)) * old).astype(np.float32)
        n = round_coefficients(x, table, k, old)
        if np.abs(n[:, 1:]).max() > MAX_MAGNITUDE:
            n, table = k, old
        n = n.reshape(each.coefficients.shape).astype(np.int16)
        components.append(dataclasses.replace(each, coefficients=n, table=table.reshape(8, 8)))
    picture = write_coefficients(components, file.height, file.width, progressive=file.progressive)
    whole = replace_recoverably(data, picture)
    if whole is None:
        return None
    assert recover_original(whole.data) == data
    recipe = split_recipe(whole.data)[1]
    return None if recipe is None else len(recipe)


def _files(path: Path, save: bool) -> Iterator[tuple[str, bytes]]:
    """Yields JPEG files of an image, and how they were saved."""
    if not save:
        data = path.read_bytes()
        if data.startswith(b"\xff\xd8"):
            yield "progressive" if jpeg.read(data).progressive else "sequential", data
        return
    with Image.open(path) as image:
        for style, options in STYLES.items():
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", **options)
            yield style, buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
