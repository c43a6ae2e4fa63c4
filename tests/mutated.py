"""Mutated JPEG files, in folders with good ones, through `dmcnn-restore`: part of the campaign."""

import atexit
import collections
import functools
import re
import shutil
import struct
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import carried_files
import jpeg_cases
import numpy as np
from jpeg_cases import mutate, pillow
from PIL import Image
from warm_commands import Run, WarmCommands

FORMATS = {
    "PNG": ("png",),
    "restored JPEG": ("jpg",),
    "TIFF": ("tif",),
    "WebP": ("webp",),
    "PNG, 16 bits": ("png", "--bits", "16"),
    "restored JPEG, 4:4:4": ("jpg", "--subsampling", "4:4:4"),
    "TIFF, 16 bits": ("tif", "--bits", "16", "--preserve-times"),
    "JPEG, pixels": ("jpg", "--quality", "80", "--upright"),
    "WebP, lossy": ("webp", "--quality", "80"),
}
"""What can be written: words after `--format`."""

Tree = dict[str, bytes]
"""The contents of files, by their paths in a folder."""


def restore(
    commands: WarmCommands, folder: Path, count: int, seed: int, words: tuple[str, ...]
) -> tuple[Run, list[str]]:
    """Restores mutated files to a format; returns the run and what went wrong.

    Args:
        commands: to run it.
        folder: an empty folder.
        count: number of mutated files.
        seed: of the mutations; if it is odd, damaged files are restored as far as they go.
        words: as in `FORMATS`.
    """
    inputs = fill_folder(folder / "in", count, seed)
    alone = _restore_good_files(commands, words, seed % 2)
    fixed = [*options(seed), "--format", *words]
    run = commands.run([folder / "in", "-o", folder / "out", *fixed])
    wrong = check_lines(run, inputs)
    if read_tree(folder / "in") != inputs:
        wrong.append("an input was changed")
    found = {name: data for name, data in read_tree(folder / "out").items() if "good" in name}
    if found != alone:
        differing = {name for name in found.keys() | alone if found.get(name) != alone.get(name)}
        wrong.append(f"good files are restored differently than alone: {sorted(differing)}")
    if left := list(folder.rglob("*.partial")):
        wrong.append(f"{left[0].name} is left")
    return run, wrong


def restore_and_undo(
    commands: WarmCommands, folder: Path, count: int, seed: int, place: str
) -> tuple[Run, list[str]]:
    """Restores mutated files in place, undoes that; returns the run and what went wrong.

    Args:
        commands: to run it.
        folder: an empty folder.
        count: number of mutated files.
        seed: of the mutations, as in `restore`.
        place: where originals are kept: "beside" or "inside".
    """
    inputs = fill_folder(folder / "in", count, seed)
    there = [folder / "in", "--originals", place]
    run = commands.run([*there, "--in-place", *options(seed)])
    wrong = check_lines(run, inputs)
    after = read_tree(folder / "in")
    replaced = {name for name in inputs if after[name] != inputs[name]}
    if not replaced >= {f"good{number}.jpg" for number in range(4)}:
        wrong.append(f"only {sorted(replaced)[:5]} are restored")
    for name in replaced:
        kept = after.get(f"{name}_original")
        if kept != inputs[name] and not (place == "inside" and kept is None):
            wrong.append(f"the original of {name} is lost")
    back = commands.run([*there, "--undo"])
    wrong += check_lines(back, {name: b"" for name in inputs})
    if read_tree(folder / "in") != inputs:
        different = {n for n, data in read_tree(folder / "in").items() if inputs.get(n) != data}
        wrong.append(f"{sorted(different)[:5]} are not put back")
    return (run if run.longest >= back.longest else back), wrong


def options(seed: int) -> list[str]:
    """Returns the words that runs have in common; with an odd seed, damaged files are restored."""
    words = ["--weights", str(weights()), "--engine", "jax", "--device", "cpu"]
    words += ["--max-pixels", "1000000"]
    return [*words, "--allow-truncated"] if seed % 2 else words


def check_lines(run: Run, inputs: Mapping[str, bytes]) -> list[str]:
    """Returns what is wrong with what a run said: each input has one line."""
    if run.hung:
        return [f"hung; its last words: {run.said[-200:]}"]
    if run.status not in (0, 1) or "Traceback" in run.said:
        return [f"status {run.status}: {run.said[-500:]}"]
    said: collections.Counter[str] = collections.Counter()
    wrong = []
    lines = run.said.splitlines()
    for line in lines[:-1] if len(inputs) > 1 else lines:  # the last counts several files
        if found := re.match(r"dmcnn-restore: .*?/in/(\S+): (.*)", line):
            said[found[1]] += 1
        else:
            wrong.append(f"a line of no file: {line[:200]}")
    if said != collections.Counter(inputs.keys()):
        missing = set(inputs) ^ set(said)
        wrong.append(f"lines of other files, or none, or two: {sorted(missing)[:5]}")
    return wrong


def fill_folder(folder: Path, count: int, seed: int) -> Tree:
    """Writes good and mutated files to a new folder; returns them."""
    rng = np.random.default_rng(seed)
    good = good_files()
    bases = [*good, *other_files()]
    contents = {f"good{number}.jpg": data for number, data in enumerate(good)}
    for number in range(count):
        data = bases[rng.integers(len(bases))]
        changed = (mutate if rng.integers(4) else mutate_more)(rng, data)
        contents[f"{number:05}.jpg"] = changed
    folder.mkdir()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return contents


def read_tree(folder: Path) -> Tree:
    """Returns the contents of all files in a folder, by their paths in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


_alone: dict[tuple[WarmCommands, tuple[str, ...], int], Tree] = {}


def _restore_good_files(commands: WarmCommands, words: tuple[str, ...], seed: int) -> Tree:
    """Returns what good files are restored to when there are no others; once for each format."""
    key = commands, words, seed
    if key not in _alone:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            fill_folder(folder / "in", 0, 0)
            fixed = [*options(seed), "--format", *words]
            run = commands.run([folder / "in", "-o", folder / "out", *fixed])
            assert run.status == 0, run.said
            _alone[key] = read_tree(folder / "out")
    return _alone[key]


@functools.cache
def good_files() -> tuple[bytes, ...]:
    """Returns small JPEG files of several kinds."""
    noise = np.random.default_rng(1).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(noise).resize((57, 45), Image.Resampling.BICUBIC))
    exif = Image.Exif()
    exif[0x112] = 6
    return (
        pillow(picture, quality=30),
        pillow(picture, "L", quality=20, optimize=True),
        pillow(picture, quality=10, subsampling="4:4:4", restart_marker_blocks=3),
        pillow(picture, quality=50, keep_rgb=True),
        pillow(picture, quality=85, progressive=True, exif=exif, icc_profile=b"profile" * 9),
        pillow(picture, "L", quality=50, progressive=True),
        pillow(picture, "CMYK", quality=40),
    )


@functools.cache
def other_files() -> tuple[bytes, ...]:
    """Returns further bases of mutations: rare samplings and scans, carried and restored files."""
    from test_recovery import finer

    from dmcnn_jax.jpeg.recoverable import replace_recoverably

    rng = np.random.default_rng(2)
    samplings = [(1, 1), (2, 1), (1, 2)], [(1, 4), (1, 1), (1, 1)]
    drawn = [jpeg_cases.write(20, 33, jpeg_cases.planes(rng, 20, 33, each)) for each in samplings]
    planes = jpeg_cases.planes(rng, 20, 33, [(2, 2), (1, 1), (1, 1)], table_limit=999)
    drawn.append(jpeg_cases.write(20, 33, planes, jpeg_cases.full_progression(3)))
    # `mutate` divides files, which it takes for well-formed.
    carried = [d for n, d in carried_files.files().items() if len(d) < 4000 and n != "stray"]
    restored = []
    for data in good_files()[:3]:
        whole = replace_recoverably(data, finer(data), added=[])
        assert whole is not None
        restored.append(whole.data)
    return tuple([*drawn, *carried, *restored])


def mutate_more(rng: np.random.Generator, data: bytes) -> bytes:
    """Mutates a file in ways that are rare by chance, such as zeros in tables or wrong lengths."""
    out = bytearray(data)
    kind = rng.integers(5)
    if kind == 0:  # a table of zeros, or some
        start = out.index(b"\xff\xdb") + 5
        steps = rng.integers(1, 65)
        out[start : start + steps] = bytes(int(steps))
    elif kind == 1:  # large, but not absurd, like the header of a large photograph
        frame = max(data.find(b"\xff\xc0\0"), data.find(b"\xff\xc2\0"))
        sides = rng.integers(1, 1200, 2) * rng.choice([1, 8, 50])
        out[frame + 5 : frame + 9] = struct.pack(">HH", *(min(int(s), 65535) for s in sides))
    elif kind == 2:  # a segment's length
        starts = [m.start() for m in re.finditer(rb"\xff[\xc0-\xfe]", data)]
        start = starts[rng.integers(len(starts))] + 2
        out[start : start + 2] = rng.integers(0, 256, 2, dtype=np.uint8).tobytes()
    elif kind == 3:  # one file in another
        start = rng.integers(2, len(out))
        out[start:start] = data[: rng.integers(2, len(data))]
    else:  # sampling factors, precision, components
        frame = max(data.find(b"\xff\xc0\0"), data.find(b"\xff\xc2\0"))
        out[frame + 4 + rng.choice([0, 5, 6, 7, 8])] = rng.integers(256)
    return bytes(out)


@functools.cache
def weights() -> Path:
    """Returns a tiny, untrained network's file, which is deleted at the end of the process.

    Restored files name it, so that all runs have the same.
    """
    import jax

    from dmcnn_jax.inference.variables import variable_shapes
    from dmcnn_jax.inference.weights import save_weights
    from dmcnn_jax.models import create_model

    model = {"name": "dmcnn", "features": 2, "dct_features": 4}
    shapes = variable_shapes(create_model(model))
    rng = np.random.default_rng(0)
    # Small weights change the decoded picture little.
    fill = partial(_normal, rng)
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "weights.safetensors"
    save_weights(path, jax.tree.map(fill, shapes), {"model": model, "quality": 20})
    return path


def _normal(rng: np.random.Generator, leaf: Any) -> np.ndarray:
    gain = 0.3 / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
    return (gain * rng.normal(size=leaf.shape)).astype(leaf.dtype)
