"""Plans `dmcnn-restore`: which file is restored to where, before anything is read."""

import collections
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dmcnn_jax.cli.process import UsageError
from dmcnn_jax.images.extensions import JPEG_EXTENSIONS


@dataclasses.dataclass(eq=False)
class Task:
    """One file to restore.

    Attributes:
        source: its path, None for standard input.
        target: path of the result, None for standard output.
        refusal: why it must not be restored, or "".
        skip: why it need not be restored, or "".
    """

    source: Path | None
    target: Path | None
    refusal: str = ""
    skip: str = ""

    @property
    def name(self) -> str:
        """Name of the input in messages and reports."""
        return "<standard input>" if self.source is None else str(self.source)

    @property
    def shown(self) -> str:
        """The name with control characters escaped, for terminals."""
        from dmcnn_jax.jpeg.reader import printable

        return printable(self.name)

    @property
    def output(self) -> str | None:
        """Path of the result in reports, None for standard output."""
        return None if self.target is None else str(self.target)


def plan(
    inputs: Sequence[str], output: str | None, extension: str, overwrite: bool = False
) -> list[Task]:
    """Returns which files are restored to where.

    One folder's structure is mirrored in the output folder; of several folders each is mirrored in
    a subfolder of its own, named after it.

    Args:
        inputs: files, folders, "-" for standard input.
        output: a folder, a file, "-" for standard output, or None: beside each input.
        extension: of files that are written to folders, with its dot.
        overwrite: whether existing files are replaced.

    Returns:
        Tasks in the order of the inputs; the files of a folder are sorted.

    Raises:
        UsageError: if inputs and output don't fit each other.
    """
    folders = _folders(inputs)
    _check_usage(inputs, output, folders)
    if output is None or output == "-":
        tasks = [_task_without_folder(each, output, extension) for each in inputs]
    else:
        destination = Path(output)
        to_file = _names_a_file(inputs, output, folders)
        if not to_file and destination.is_file():
            raise UsageError(f"-o {output!r} is a file; expected a folder for several pictures")
        mirrors = mirror_folders(folders, destination)
        tasks = []
        for each in inputs:
            path = None if each == "-" else Path(each)
            if path is not None and path in mirrors:
                tasks += _folder_tasks(path, mirrors[path], destination, extension)
            elif to_file:
                tasks.append(Task(path, destination))
            else:
                stem = "restored" if path is None else path.stem
                tasks.append(Task(path, destination / f"{stem}{extension}"))
    _refuse_and_skip(tasks, overwrite)
    return tasks


def mirror_folders(folders: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Returns the folder that each input folder is mirrored in.

    One folder is mirrored in the output itself. Of several, each gets a subfolder that has its
    name; where names are equal, as many parent folders come before them as tell them apart:
    `2023/may` and `2024/may` rather than `may`.

    Args:
        folders: input folders; the same one may be named twice.
        output: the output folder.
    """
    parts = {folder: folder.resolve().parts[1:] for folder in folders}
    distinct = set(parts.values())
    if len(distinct) <= 1:
        return dict.fromkeys(folders, output)
    ends: dict[tuple[str, ...], tuple[str, ...]] = {}
    for length in range(1, max(map(len, distinct)) + 1):
        shared = collections.Counter(path[-length:] for path in distinct)
        for path in distinct:
            if path not in ends and (shared[path[-length:]] == 1 or length >= len(path)):
                ends[path] = path[-length:]
    return {folder: output.joinpath(*ends.get(path, ())) for folder, path in parts.items()}


def describe_mirrors(inputs: Sequence[str], output: str | None) -> list[str]:
    """Returns a line for each input folder that shares its name with another: where it goes."""
    folders = _folders(inputs)
    if output is None or len(folders) < 2:
        return []
    mirrors = mirror_folders(folders, Path(output))
    return [
        f"{folder} goes to {mirror}: another input folder is also called {folder.resolve().name!r}"
        for folder, mirror in mirrors.items()
        if mirror.parent != Path(output) and mirror != Path(output)
    ]


def _folders(inputs: Sequence[str]) -> list[Path]:
    return [Path(each) for each in inputs if each != "-" and Path(each).is_dir()]


def _check_usage(inputs: Sequence[str], output: str | None, folders: Sequence[Path]) -> None:
    if output == "":
        raise UsageError("-o is ''; expected a folder, a file or -")
    if "-" in inputs and len(inputs) > 1:
        raise UsageError("standard input can't be combined with other inputs; expected - alone")
    if output == "-" and (len(inputs) > 1 or folders):
        raise UsageError("standard output takes one picture; name a folder with -o")
    if folders and output is None:
        raise UsageError(f"{str(folders[0])!r} is a folder; name one for its pictures with -o")


def _names_a_file(inputs: Sequence[str], output: str, folders: Sequence[Path]) -> bool:
    """Returns whether the output is the name of a file: one input, and an extension."""
    return (
        not folders
        and len(inputs) == 1
        and not output.endswith(("/", os.sep))
        and not Path(output).is_dir()
        and Path(output).suffix != ""
    )


def _task_without_folder(name: str, output: str | None, extension: str) -> Task:
    """Returns the task of a file that goes to standard output, or beside its input."""
    if name == "-":
        return Task(None, None)
    path = Path(name)
    if output == "-":
        return Task(path, None)
    return Task(path, path.with_name(f"{path.stem}-restored{extension}"))


def _folder_tasks(folder: Path, mirror: Path, output: Path, extension: str) -> Iterator[Task]:
    for path in _find_jpegs(folder, output):
        yield Task(path, mirror / path.relative_to(folder).with_suffix(extension))


def _find_jpegs(folder: Path, output: Path) -> Iterator[Path]:
    """Yields the JPEG files in a folder and below, sorted; the output folder is left out."""
    output = output.resolve()
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if (Path(path) / f).resolve() != output)
        for name in sorted(files):
            if Path(name).suffix.lower() in JPEG_EXTENSIONS:
                yield Path(path) / name


def _refuse_and_skip(tasks: Sequence[Task], overwrite: bool) -> None:
    """Marks tasks whose results must not, or need not, be written."""
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
