"""The command `dmcnn-restore`: files and folders of JPEG files in, restored pictures out."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dmcnn_jax.cli.messages import UsageError

_JPEG_EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif"}


@dataclasses.dataclass(eq=False)
class Task:
    """One file to restore.

    Attributes:
        source: its path, None for standard input.
        target: where to, None for standard output.
        refusal: why not, if so.
        skip: why it need not be.
    """

    source: Path | None
    target: Path | None
    refusal: str = ""
    skip: str = ""

    @property
    def name(self) -> str:
        """What to call it."""
        return "<standard input>" if self.source is None else str(self.source)

    @property
    def shown(self) -> str:
        """The same for terminals."""
        from dmcnn_jax.jpeg.reader import printable

        return printable(self.name)


def plan(
    inputs: Sequence[str], output: str | None, extension: str, overwrite: bool = False
) -> list[Task]:
    """Which files are restored to where.

    Args:
        inputs: files, folders, "-".
        output: a folder, a file, "-", or None.
        extension: of files that are written to folders, with its dot.
        overwrite: whether files that exist are replaced.

    Returns:
        Tasks in order of the inputs, files of a folder sorted.

    Raises:
        UsageError: if inputs and output don't fit each other.
    """
    folders = [Path(i) for i in inputs if i != "-" and Path(i).is_dir()]
    if output == "":
        raise UsageError("-o ''; expected a folder, a file or -")
    if "-" in inputs and len(inputs) > 1:
        raise UsageError("standard input goes alone; expected '-' to be the only input")
    if output == "-" and (len(inputs) > 1 or folders):
        raise UsageError("standard output takes one picture; name a folder with -o")
    if folders and output is None:
        raise UsageError(f"{str(folders[0])!r} is a folder; say with -o where its pictures go")
    to_file = (
        output not in (None, "-")
        and not folders
        and len(inputs) == 1
        and not output.endswith(("/", os.sep))
        and not Path(output).is_dir()
        and Path(output).suffix != ""
    )
    if output not in (None, "-") and not to_file and Path(output).is_file():
        raise UsageError(f"-o {output!r} is a file; expected a folder for several pictures")
    tasks = []
    for each in inputs:
        if each == "-":
            target = None if output in (None, "-") else Path(output)
            target = target if to_file or target is None else target / f"restored{extension}"
            tasks.append(Task(None, target))
        elif Path(each) in folders:
            for path in _jpegs(Path(each), Path(output)):
                inside = path.relative_to(each).with_suffix(extension)
                tasks.append(Task(path, Path(output) / inside))
        elif output == "-":
            tasks.append(Task(Path(each), None))
        elif output is None:
            path = Path(each)
            tasks.append(Task(path, path.with_name(f"{path.stem}-restored{extension}")))
        else:
            target = Path(output) if to_file else Path(output) / f"{Path(each).stem}{extension}"
            tasks.append(Task(Path(each), target))
    _check(tasks, overwrite)
    return tasks


def _jpegs(folder: Path, output: Path) -> Iterator[Path]:
    """JPEG files below a folder, sorted, but for those below the output."""
    output = output.resolve()
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if (Path(path) / f).resolve() != output)
        for name in sorted(files):
            if Path(name).suffix.lower() in _JPEG_EXTENSIONS:
                yield Path(path) / name


def _check(tasks: list[Task], overwrite: bool) -> None:
    """Finds what must not be written, before anything is."""
    sources = {os.path.realpath(task.source): task.source for task in tasks if task.source}
    taken: dict[str, Task] = {}
    for task in tasks:
        if task.target is None:
            continue
        real = os.path.realpath(task.target)
        if real in sources:
            task.refusal = (
                f"its result would overwrite the input {sources[real]}; choose another -o"
            )
        elif real in taken:
            task.refusal = f"its result would overwrite that of {taken[real].name} ({task.target})"
        else:
            taken[real] = task
            if task.target.is_dir():
                task.refusal = f"its result would be {task.target}, which is a folder"
            elif task.target.exists() and not overwrite:
                task.skip = f"{task.target} exists; --overwrite replaces it"
