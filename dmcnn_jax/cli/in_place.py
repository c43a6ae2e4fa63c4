"""Plans `dmcnn-restore --in-place` and `--undo`: the files, and the places of their originals."""

import argparse
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dmcnn_jax.cli.process import UsageError
from dmcnn_jax.cli.real_paths import RealPaths
from dmcnn_jax.cli.restore_planning import Plan, Task
from dmcnn_jax.images.extensions import JPEG_EXTENSIONS
from dmcnn_jax.images.input_folders import Skipped, find_jpegs

SUFFIX = "_original"
"""The suffix of originals kept beside their files, as ExifTool names them."""


@dataclasses.dataclass(frozen=True)
class Originals:
    """The place of originals.

    Attributes:
        folder: a real path; None: originals are kept beside their files.
        inside: whether originals are kept inside the restored files where possible.
    """

    folder: Path | None = None
    inside: bool = False

    def path_of(self, path: Path) -> Path:
        """Returns the path of a file's original, unless it is kept inside the restored file.

        It depends only on the file's real path, not on how the user named the file. A folder of
        originals mirrors the structure of the folder that contains it. Files from elsewhere are
        kept there under their full path, in a subfolder of the folder's own name, which no other
        original has: `kept/kept/disk/a.jpg`.

        Args:
            path: path of a file that is not a link; with a folder of originals, a real path.
        """
        if self.folder is None:
            return path.with_name(path.name + SUFFIX)
        around = self.folder.parent
        if path.is_relative_to(around):
            return self.folder / path.relative_to(around)
        disk = path.drive.strip(":\\")  # on Windows
        return self.folder / self.folder.name / disk / path.relative_to(path.anchor)

    def holds(self, path: Path) -> bool:
        """Returns whether a real path is an original, or a folder of originals."""
        if path.name.endswith(SUFFIX) and not os.path.isdir(path):
            return True
        return self.folder is not None and path.is_relative_to(self.folder)

    def find(self, folder: Path) -> Iterator[tuple[Path, Path]]:
        """Yields the originals of a folder's files, each with the path of its file.

        Args:
            folder: in which the files are, or were.
        """
        if self.folder is None:
            suffixes = [extension + SUFFIX for extension in JPEG_EXTENSIONS]
            for original, refusal in find_jpegs(folder, None, Skipped(), suffixes):
                if not refusal:
                    yield original, original.with_name(original.name.removesuffix(SUFFIX))
            return
        real, around = Path(os.path.realpath(folder)), self.folder.parent
        mirrors = {self.folder: around} if around.is_relative_to(real) else {}
        mirrors[self.path_of(real)] = folder
        for mirror, mirrored in mirrors.items():
            for original, refusal in find_jpegs(mirror, None, Skipped()):
                if not refusal:
                    yield original, mirrored / original.relative_to(mirror)


def check_usage(options: argparse.Namespace) -> None:
    """Checks that the options can be combined with `--in-place` or `--undo`, if one is given.

    Args:
        options: of the command.

    Raises:
        UsageError: if they can't.
    """
    if not (options.in_place or options.undo):
        if options.originals is not None:
            raise UsageError("--originals is for --in-place and --undo")
        return
    if options.in_place and options.undo:
        raise UsageError("--in-place and --undo can't be combined")
    mode = "--in-place" if options.in_place else "--undo"
    format_name = (options.format or "jpg").lstrip(".").lower()
    conflicts = {
        "-o": options.output is not None,
        f"--format {options.format}": format_name not in ("jpg", "jpeg"),
        "--suffix": options.suffix is not None,
        "--quality": options.quality is not None,
        "--upright": options.upright,
        "--bits 16": options.bits == 16,
        "--overwrite": options.overwrite,
        "--serve": options.serve is not None,
        "--verify": bool(options.verify),
        "standard input (-)": "-" in options.inputs,
    }
    for name, given in conflicts.items():
        if given:
            raise UsageError(
                f"{mode} can't be combined with {name}, which replaces JPEG files in place"
            )


def parse_originals(where: str | None) -> Originals:
    """Returns the place that `--originals` names.

    Args:
        where: "beside", "inside", a folder, which need not exist, or None for the default.

    Raises:
        UsageError: if it is none of these.
    """
    if where in (None, "beside"):
        return Originals()
    if where == "inside":
        return Originals(inside=True)
    assert where is not None
    if not where or (os.path.lexists(where) and not os.path.isdir(where)):
        raise UsageError(f"--originals {where!r}; expected beside, inside or a folder")
    return Originals(Path(os.path.realpath(where)))


def plan_in_place(inputs: Sequence[str], originals: Originals) -> Plan:
    """Returns the plan of replacing files, with the place of each file's original.

    The target of a task is the real file: if its source is a link, the link stays.

    Args:
        inputs: files and folders.
        originals: their place; originals found among the inputs are left out.
    """
    tasks: list[Task] = []
    remarks: list[str] = []
    skipped = Skipped()
    for each in inputs:
        if not os.path.isdir(each):
            tasks.append(Task(Path(each), None))
        elif originals.holds(Path(os.path.realpath(each))):
            remarks.append(f"{each} is left out, since originals are kept there")
        else:
            found = find_jpegs(Path(each), originals.folder, skipped)
            tasks += [Task(path, None, refusal=reason) for path, reason in found]
    real_path, known = RealPaths(), dict[Path, Path]()
    for task in tasks:
        if task.source is None or task.refusal:
            continue
        real = Path(real_path(task.source))
        # Messages use the user's name for the file, unless it is a link.
        task.target = real if os.path.islink(task.source) else task.source
        task.original = originals.path_of(real if originals.folder else task.target)
        if real in known:
            task.skip = f"it was named before, as {known[real]}"
        elif originals.holds(real):
            task.skip = "an original kept by --in-place"
        else:
            task.refusal = _describe_obstacle(real)
        known.setdefault(real, task.source)
    return Plan(tasks, remarks + skipped.lines())


def plan_undo(inputs: Sequence[str], originals: Originals) -> Plan:
    """Returns the plan of putting originals back, which also names files that are missing.

    Args:
        inputs: files and folders.
        originals: their place.
    """
    planned = plan_in_place(inputs, originals)
    real_path, known = RealPaths(), set[str]()
    for task in planned.tasks:
        if not task.target or not task.original or task.skip:
            continue
        known.add(real_path(task.target))
        if not os.path.lexists(task.target) and os.path.isfile(task.original):
            task.refusal = _MISSING.format(task.original)
    for each in filter(os.path.isdir, inputs):
        for original, path in originals.find(Path(each)):
            real = real_path(path)
            if not (os.path.lexists(path) or real in known or originals.holds(Path(real))):
                known.add(real)
                skip = _MISSING.format(original)
                planned.tasks.append(Task(path, path, skip=skip, original=original))
    return planned


_MISSING = "it is missing; its original is {}: rename it to put it back"


def _describe_obstacle(path: Path) -> str:
    """Returns why a file can't be replaced, or ""."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""  # reading the file will give the error
    if not path.is_file():
        return "not a regular file"
    # Root can write read-only files, but they are refused all the same.
    if not mode & 0o222 or not os.access(path, os.W_OK):
        return "read-only; make it writable to replace it"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return "its folder is read-only; make it writable to replace the file"
    return ""
