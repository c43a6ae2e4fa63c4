"""Files forged to deceive: certificates, recipes, pairs to verify, bytes for the library.

Parts of the campaign. `main` gives files of a folder to the library's functions, in a process of
its own.
"""

import base64
import hashlib
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutated
import numpy as np
from jpeg_cases import mutate, segment
from mutated import Tree, read_tree
from warm_commands import Run, WarmCommands

IDENTIFIER = b"dmcnn_jax\0"
HOSTILE: list[Any] = [
    *(-1, 0, 1, 2, 5, 64, 1000, 2**31, 2**63, 10**300, 1e308, True, None, "", "x", "\ud800"),
    *("\x1b[31m\n", [], {}, [[]], [0], [0, 2**40], [-5, 5], {"filler": -3}, {"filler": 2**40}),
    *({"patches": [[0, 300]]}, {"patches": [[-1, 1]] * 50}, {"zeros": 1}, {"patches": 3}),
]


def forge_certificates(
    commands: WarmCommands, folder: Path, count: int, seed: int
) -> tuple[list[Run], list[str]]:
    """Restores and undoes files with forged certificates; returns what went wrong."""
    rng = np.random.default_rng(seed)
    inputs = {f"{n:03}.jpg": _forge_certificate(rng) for n in range(count)}
    return _restore_and_undo(commands, folder, inputs)


def forge_recipes(
    commands: WarmCommands, folder: Path, count: int, seed: int
) -> tuple[list[Run], list[str]]:
    """Restores and undoes files with forged recipes; returns what went wrong."""
    rng = np.random.default_rng(seed)
    inputs = {f"{n:03}.jpg": _forge_recipe(rng) for n in range(count)}
    return _restore_and_undo(commands, folder, inputs)


def _restore_and_undo(
    commands: WarmCommands, folder: Path, inputs: Tree
) -> tuple[list[Run], list[str]]:
    """Undoes files that nobody restored, restores them in place, and undoes that."""
    (folder / "in").mkdir()
    for name, data in inputs.items():
        (folder / "in" / name).write_bytes(data)
    runs, wrong = [], []
    for mode in ("--undo", "--in-place", "--undo"):
        more = mutated.options(1) if mode == "--in-place" else []
        run = commands.run([folder / "in", mode, "--originals", "inside", *more])
        wrong += [f"{mode}: {line}" for line in mutated.check_lines(run, inputs)]
        if run.peak > 1e9:
            wrong.append(f"{mode}: {run.peak / 1e9:.1f} GB")
        if mode == "--undo" and read_tree(folder / "in") != inputs:
            wrong.append(f"{mode}: files changed")
        runs.append(run)
    return runs, wrong


def _forge_certificate(rng: np.random.Generator) -> bytes:
    """Returns a file with a certificate that is truncated, absurd, or of another picture."""
    from dmcnn_jax.jpeg.frame import ANY_SIZE
    from dmcnn_jax.jpeg.markers import parse

    data = mutated.good_files()[rng.integers(6)]
    plain = parse(data, "x", ANY_SIZE).plain
    digest = base64.b64encode(hashlib.sha256(plain).digest()).decode()
    table = base64.b64encode(
        bytes(rng.integers(0, 3, rng.choice([0, 1, 63, 64, 65, 128])))
    ).decode()
    content: Any = {
        "version": "1",
        "models": ["net"] * int(rng.choice([0, 1, 3, 9000])),
        "tables": [table] * 3,
        "digest": digest,
        "original": digest,
    }
    for _ in range(rng.integers(3)):
        content[rng.choice([*content])] = HOSTILE[rng.integers(len(HOSTILE))]
    text = json.dumps(content).encode()
    kind = rng.integers(7)
    if kind == 0:
        text = text[: rng.integers(len(text))]
    elif kind == 1:
        text = b"[" * 60_000
    elif kind == 2:
        text = b'{"digest":' + b"9" * 60_000 + b"}"
    elif kind == 3:
        text = bytes(rng.integers(0, 256, 100, np.uint8))
    made = bytearray(segment(0xE9, IDENTIFIER + text[:65_000]))
    if kind == 4:  # an absurd length
        made[2:4] = bytes(rng.integers(0, 256, 2, np.uint8))
    return data[:2] + bytes(made) * int(rng.integers(1, 4)) + data[2:]


def _forge_recipe(rng: np.random.Generator) -> bytes:
    """Returns a file with a certificate of its own, and a recipe that asks for too much."""
    from dmcnn_jax.jpeg.certificate import make_segment
    from dmcnn_jax.jpeg.frame import ANY_SIZE
    from dmcnn_jax.jpeg.markers import parse
    from dmcnn_jax.jpeg.recipe import TYPICAL_SEGMENTS, make_segments

    data = mutated.good_files()[rng.integers(4)]
    head = data[: data.index(b"\xff\xda") + 14]
    many = int(rng.choice([1, 10, 1000, 20_000]))
    scan: Any = {} if rng.integers(2) else HOSTILE[rng.integers(len(HOSTILE))]
    parts: Any = [
        [len(head), *[scan] * many],
        [499_999, -499_999] * many,
        [[0, len(data)]] * many,
        [HOSTILE[i] for i in rng.integers(0, len(HOSTILE), 20)],
        [[0, 2**62], len(head), {"filler": 2**62}],
        [len(head), {"patches": [[0, 0]] * many}],
        HOSTILE[rng.integers(len(HOSTILE))],
    ][rng.integers(7)]
    line = json.dumps(parts).encode()
    if rng.integers(8) == 0:
        line = b"[" * 500_000 if rng.integers(2) else b"0," * 2_000_000
    packer = zlib.compressobj(9, wbits=-15, zdict=TYPICAL_SEGMENTS)
    body = packer.compress(line + b"\n" + head + bytes(500_000)) + packer.flush()
    recipe = bytes((1,)) + hashlib.sha256(data).digest() + body
    made = [segment(*each) for each in make_segments(recipe)]
    if rng.integers(4) == 0:
        made = [made[i] for i in rng.integers(0, len(made), rng.integers(1, 4))]
    plain = parse(data, "x", ANY_SIZE).plain
    tables = [np.ones((8, 8), np.int32)] * 3
    certificate = segment(*make_segment(["net"] * 3, tables, plain, data))
    whole = bytearray(data[:2] + certificate + b"".join(made) + data[2:])
    if rng.integers(4) == 0:
        for place in rng.integers(2, len(certificate) + 60, 3):
            whole[place] = rng.integers(256)
    return bytes(whole)


def verify_pairs(
    commands: WarmCommands, folder: Path, count: int, seed: int
) -> tuple[list[Run], list[str]]:
    """Verifies mutated files against mutated ones; returns what went wrong."""
    rng = np.random.default_rng(seed)
    bases = [*mutated.good_files(), *mutated.other_files()]
    runs, wrong = [], []
    for number in range(count):
        base = bases[rng.integers(len(bases))]
        other = base if rng.integers(2) else bases[rng.integers(len(bases))]
        paths = [folder / f"{name}.jpg" for name in "ab"]
        for path, data in zip(paths, (base, other), strict=True):
            path.write_bytes(data if rng.integers(3) == 0 else mutate(rng, data))
        truncated = ["--allow-truncated"] if rng.integers(2) else []
        limit = ["--max-pixels", "1000000"]
        run = commands.run(["--verify", *paths, "--quiet", *limit, *truncated])
        lines = run.said.count("\n")
        if run.hung or run.status not in (0, 1) or lines > 1 or "Traceback" in run.said:
            wrong.append(f"pair {number}: status {run.status}: {run.said[-300:]}")
        runs.append(run)
    return runs, wrong


def give_bytes(
    commands: WarmCommands, folder: Path, count: int, seed: int
) -> tuple[Run, list[str]]:
    """Gives mutated bytes to the library's functions; returns what went wrong."""
    inputs = mutated.fill_folder(folder / "in", count, seed)
    run = commands.run([folder / "in", mutated.weights()], module="forgeries")
    answers = run.said.splitlines()
    wrong = [line for line in answers if line.startswith("wrong")]
    if run.hung or run.status or len(answers) != len(inputs):
        wrong.append(f"status {run.status}, {len(answers)} answers: {run.said[-300:]}")
    return run, wrong


def main() -> int:
    """Gives each file of a folder to functions of the library; prints a line for each."""
    from dmcnn_jax import jpeg
    from dmcnn_jax.jpeg.recovery import recover_original
    from dmcnn_jax.restoration.jpeg_options import JpegOptions
    from dmcnn_jax.restoration.options import RestoreOptions
    from dmcnn_jax.restoration.restorer import Restorer

    folder, weights = sys.argv[1:]
    restorer = Restorer(weights, RestoreOptions(engine="jax"))

    def restore_jpeg(data: bytes) -> bytes:
        # As `dmcnn_jax.restore_jpeg`, with one restorer for all files and fewer pixels.
        file = jpeg.read(data, max_pixels=1_000_000)
        options = JpegOptions(recoverable=True)
        made = restorer.render_jpeg(restorer.restore_planes(file), options)
        if made.recoverable:
            assert recover_original(made.data) == data, "another original"
        return made.data

    calls: tuple[Callable[[bytes], bytes], ...] = (restore_jpeg, recover_original)
    for path in sorted(Path(folder).iterdir()):
        said = path.name
        for call in calls:
            try:
                call(path.read_bytes())
            except ValueError:
                pass  # what the documentation promises
            except Exception as error:
                said = f"wrong: {path.name}: {call.__name__}: {error!r}"
        print(ascii(said)[1:-1], file=sys.stderr)
    return 0
