"""Runs a recipe of several phases: packs images, trains the phases in turn, averages weights.

Every phase has a folder in the output folder, named by its number and name. An interrupted recipe
resumes within the phase, and skips finished phases.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from dmcnn_jax.config.recipes import (
    AveragePhase,
    PackOptions,
    Phase,
    TrainPhase,
    check_phases,
)
from dmcnn_jax.config.types import Config
from dmcnn_jax.data import images, packs, tiles
from dmcnn_jax.data.images import digest
from dmcnn_jax.data.pack_sources import join_sources
from dmcnn_jax.system.atomic_write import write_file
from dmcnn_jax.system.item_progress import show_progress
from dmcnn_jax.training.averaging import average_weights
from dmcnn_jax.training.loop import train
from dmcnn_jax.training.workdir_lock import WorkdirLock


def run_recipe(
    phases: Sequence[Phase],
    source: str,
    output: Path,
    *,
    name: str,
    write: Callable[[str], None] = print,
) -> Path:
    """Runs the phases of a recipe, from images to a weights file.

    Args:
        phases: the phases, in order.
        source: folder of images, or "packaged". They are packed to `packs` in the output folder,
            once for each combination of luma range, tile, largest shorter side and options.
        output: folder for packs and phases; a recipe that it already holds is resumed.
        name: name of the recipe, used in the weights files.
        write: prints a line of progress.

    Returns:
        The weights file of the last phase, `best.safetensors` in the output folder.

    Raises:
        ValueError: if the phases contradict each other, or the output folder holds a recipe begun
            with other images, configurations or weights.
        KeyboardInterrupt: if a signal stopped a phase, after a checkpoint.
        WorkdirInUseError: an OSError, if another process runs a recipe in the output folder.
        OSError: if a file is missing, or can't be written; and see `train`.
    """
    check_phases(phases)
    with WorkdirLock(output):
        return _run_phases(phases, source, output, name, write)


def _run_phases(
    phases: Sequence[Phase], source: str, output: Path, name: str, write: Callable[[str], None]
) -> Path:
    """Runs a checked recipe in a locked folder; arguments and result as in `run_recipe`."""
    _check_source(source, output)
    results: dict[str, Path] = {}
    for number, phase in enumerate(phases, 1):
        folder = output / f"{number}-{phase.name}"
        title = f"phase {number} of {len(phases)}, {phase.name}"
        results[phase.name] = folder / "best.safetensors"
        if isinstance(phase, AveragePhase):
            write(f"{title}: the mean of {' and '.join(phase.of)}")
            average_weights([results[other] for other in phase.of], results[phase.name])
        else:
            config = _configure(phase, folder, results, name)
            _run_train_phase(config, phase.pack, folder, source, output / "packs", title, write)
    result = output / "best.safetensors"
    write_file(result, results[phases[-1].name].read_bytes())
    return result


def _check_source(source: str, output: Path) -> None:
    """Checks that the output folder was begun with the same images; records them."""
    record = output / "recipe.json"
    wanted = source if source == "packaged" else str(Path(source).resolve())
    if record.exists():
        begun = json.loads(record.read_text())["source"]
        if begun != wanted:
            raise ValueError(
                f"the recipe in {str(output)!r} was begun with the images of {begun!r}, not "
                f"{wanted!r}; use those, or another output folder"
            )
        return
    _write_record(record, {"source": wanted})


def _configure(
    phase: TrainPhase, folder: Path, results: Mapping[str, Path], name: str
) -> ml_collections.ConfigDict:
    """Returns the configuration of a phase with its name, folder and starting weights."""
    config = ml_collections.ConfigDict(phase.config).copy_and_resolve_references()
    config.name, config.workdir = f"{name}-{phase.name}", str(folder)
    if phase.start:
        config.init_from = str(results[phase.start])
    return config


def _run_train_phase(
    config: ml_collections.ConfigDict,
    pack: PackOptions,
    folder: Path,
    source: str,
    packs_folder: Path,
    title: str,
    write: Callable[[str], None],
) -> None:
    """Trains a phase to its end, unless it is finished."""
    record_path = folder / "phase.json"
    record = {"start": _digest(config.init_from), "config": _identity(config), "done": False}
    if record_path.exists():
        before = json.loads(record_path.read_text())
        if before["start"] != record["start"]:
            raise ValueError(
                f"{title}: it was begun from other weights than {config.init_from!r} now holds; "
                f"remove {str(folder)!r} to train it again"
            )
        if before["done"] and before["config"] == record["config"]:
            write(f"{title}: done before")
            return
    write(f"{title}: {_describe(config)}")
    config.data.source = str(_pack(config, pack, source, packs_folder, write))
    _write_record(record_path, record)
    train(config, folder)
    _write_record(record_path, record | {"done": True})


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record as JSON to a file whose folder may not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(record) + "\n").encode())


def _digest(weights: str) -> str:
    """Returns the SHA-256 of a weights file; for a bundled name, or none, the name itself."""
    path = Path(weights)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else weights


def _identity(config: Config) -> Any:
    """Returns the fields of a configuration, as JSON, without paths that may change."""
    fields = json.loads(config.to_json_best_effort())
    del fields["workdir"], fields["init_from"], fields["data"]["source"]
    return fields


def _describe(config: Config) -> str:
    steps = sum(config.train.stage_steps)
    side = config.data.max_short_side
    size = f"images of at most {side} pixels (shorter side)" if side else "images of full size"
    start = f"from {config.init_from}" if config.init_from else "from random weights"
    return f"{steps:,} steps, {start}, on {size}"


def _pack(
    config: Config,
    options: PackOptions,
    source: str,
    packs_folder: Path,
    write: Callable[[str], None],
) -> Path:
    """Packs the images for a phase, unless the pack exists."""
    data, fields = config.data, dataclasses.asdict(options)
    path = packs_folder / f"{data.luma}-{data.tile}-{data.max_short_side}"
    if options != PackOptions():
        path = path.with_name(f"{path.name}-{digest(fields.items())[:8]}")
    if not path.exists():
        joined, numbers = join_sources(images.open_images(source), data.tile, **fields)
        about = packs.write_pack(
            path,
            joined,
            tile=data.tile,
            luma=data.luma,
            max_short_side=data.max_short_side,
            copies_of=numbers,
            progress=show_progress,
        )
        write(
            f"packed {len(about['images']):,} tiles of {len(about['names']):,} images to "
            f"{str(path)!r}; skipped: {tiles.format_counts(about['skipped'])}"
        )
    return path
