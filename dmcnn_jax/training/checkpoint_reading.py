"""Reads the newest undamaged checkpoint of a run.

Damaged checkpoints are set aside, so that the run resumes as if killed before writing them.
"""

import contextlib
import gc
import json
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from dmcnn_jax.system import devices
from dmcnn_jax.training import checksums
from dmcnn_jax.training.checkpoints import FOLDER, CheckpointError, complete_steps

ASIDE = "damaged-checkpoints"
"""Name of the folder in a workdir to which damaged checkpoints are moved."""


class DamagedCheckpointError(ValueError):
    """A checkpoint that can't be read, or differs from its checksums; the message says how."""


def read_newest(
    workdir: Path,
    abstract: Any,
    check_host: Callable[[Mapping[str, Any]], None],
    write: Callable[[str], None],
) -> tuple[int, dict[str, Any], Any] | None:
    """Reads the newest good checkpoint of a workdir, which must be locked.

    Newer, damaged ones are moved to `damaged-checkpoints` in the workdir.

    Args:
        workdir: folder of the run.
        abstract: a pytree of arrays, or of jax.ShapeDtypeStruct with shardings, with the saved
            structure. The numbers of devices and processes may differ.
        check_host: raises a ValueError if a run with these host values can't be resumed.
        write: prints a line.

    Returns:
        Step, values of the host, and arrays with the shardings of `abstract`; None if there is no
        checkpoint.

    Raises:
        ValueError: if the run can't be resumed, or has other arrays.
        CheckpointError: if all checkpoints are damaged; they are not moved.
    """
    damaged: dict[int, str] = {}
    newest: tuple[int, dict[str, Any], Any] | None = None
    for step in complete_steps(workdir):
        folder = workdir / FOLDER / str(step)
        try:
            if newest is None:
                newest = (step, *read_checkpoint(folder, abstract, check_host))
            else:
                _read_loss(folder)  # Orbax fails if it can't read the metrics of any one checkpoint
        except DamagedCheckpointError as error:
            damaged[step] = str(error)
    if newest is None and damaged:
        raise CheckpointError(
            f"no checkpoint in {str(workdir / FOLDER)!r} is good: {_describe(damaged)}; bring "
            "back a copy, or choose another workdir"
        )
    if newest is not None:
        _put_aside(workdir, damaged, newest[0], write)
        if not (workdir / FOLDER / str(newest[0]) / "checksums").exists():
            write(
                f"the checkpoint of step {newest[0]:,} in {str(workdir)!r} has no checksums, as "
                "those of earlier versions; it is not verified"
            )
    return newest


def read_checkpoint(
    folder: Path, abstract: Any, check_host: Callable[[Mapping[str, Any]], None] = lambda host: None
) -> tuple[dict[str, Any], Any]:
    """Reads and verifies a checkpoint; arguments and errors as in `read_newest`.

    Args:
        folder: the checkpoint.
        abstract: describes its arrays.
        check_host: checks the values of the host, once these are verified.

    Returns:
        Values of the host, and arrays.

    Raises:
        DamagedCheckpointError: if it is damaged.
    """
    sums = _read_json(folder / "checksums") if (folder / "checksums").exists() else None
    if sums is not None:
        _expect_nothing(checksums.check_list(sums))
    host = _read_json(folder / "host")
    if sums is not None:
        _expect_nothing(checksums.check_host(sums, host, _read_loss(folder)))
    try:
        check_host(host)
    except (KeyError, TypeError, AttributeError) as error:
        if sums is not None:
            raise
        raise DamagedCheckpointError(f"the host's values are not whole: {error!r}") from error
    different = [] if sums is None else checksums.different_arrays(sums, abstract)
    if different:
        raise ValueError(
            f"{str(folder)!r} has other arrays than this version of the network and optimizer: "
            f"{', '.join(different[:3])}; choose another workdir"
        )
    arrays = _read_arrays(folder, abstract)
    if sums is not None:
        _expect_nothing(checksums.check_arrays(sums, arrays))
    return host, arrays


def _expect_nothing(damage: str) -> None:
    if damage:
        raise DamagedCheckpointError(damage)


def _read_json(folder: Path) -> Any:
    """Reads the file that Orbax's `JsonSave` wrote."""
    return _parse_json(folder / "metadata")


def _read_loss(folder: Path) -> float | None:
    """Reads the validation loss of a checkpoint; None if it has none."""
    path = folder / "metrics" / "metrics"
    if not path.parent.exists():
        return None
    metrics = _parse_json(path)
    loss = metrics.get("loss") if isinstance(metrics, dict) else None
    if not isinstance(loss, int | float) or not math.isfinite(loss):
        raise DamagedCheckpointError(f"its validation loss is {loss!r}")
    return loss


def _parse_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except PermissionError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        name = f"{path.parent.name}/{path.name}"
        raise DamagedCheckpointError(f"{name} can't be read: {_last_words(error)}") from error


def _read_arrays(folder: Path, abstract: Any) -> Any:
    import orbax.checkpoint as ocp

    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, abstract)
    try:
        with _no_remarks_of_threads(), ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder.absolute() / "arrays", target)
    except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
    # Damage can cause any error of the parsers of Orbax and TensorStore.
    except Exception as error:
        if "PERMISSION_DENIED" in str(error):
            raise PermissionError(f"{str(folder)!r}: {_last_words(error)}") from error
        raise DamagedCheckpointError(f"its arrays can't be read: {_last_words(error)}") from error


@contextlib.contextmanager
def _no_remarks_of_threads() -> Iterator[None]:
    """Suppresses Python's messages about tasks that Orbax leaves behind when one of them fails.

    Each would be a traceback of fifty lines, in addition to the raised error.
    """
    hook, logger = sys.unraisablehook, logging.getLogger("asyncio")
    level = logger.level
    sys.unraisablehook = lambda remark: None
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(action="ignore"):
            try:
                yield
            except BaseException:
                gc.collect()  # the messages appear when the tasks are garbage-collected
                raise
    finally:
        sys.unraisablehook = hook
        logger.setLevel(level)


def _last_words(error: Exception) -> str:
    """Returns the reason in an error, without TensorStore's chain of file names before it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()).rsplit('": ', 1)[-1]
    for details in (" [tensorstore_spec", " [source locations"):
        text = text.partition(details)[0]
    return text[:200] or type(error).__name__


def _put_aside(
    workdir: Path, damaged: Mapping[int, str], good: int, write: Callable[[str], None]
) -> None:
    """Moves damaged checkpoints out of the run's way, and prints a line about it."""
    if not damaged:
        return
    if devices.is_main():
        (workdir / ASIDE).mkdir(exist_ok=True)
        for step in damaged:
            _move(workdir / FOLDER / str(step), workdir / ASIDE)
    devices.synchronize("damaged checkpoints")
    write(
        f"damaged checkpoints in {str(workdir)!r}: {_describe(damaged)}; set aside in "
        f"{ASIDE!r}; going on from step {good:,}, the newest good one"
    )


def _move(path: Path, folder: Path) -> None:
    """Moves a file or a folder to a folder, under an unused name."""
    names = (f"{path.name}{f'-{i}' if i else ''}" for i in range(10_000))
    path.rename(next(folder / name for name in names if not (folder / name).exists()))


def _describe(damaged: Mapping[int, str]) -> str:
    parts: Iterable[str] = (f"step {step:,} ({reason})" for step, reason in damaged.items())
    return ", ".join(parts)
