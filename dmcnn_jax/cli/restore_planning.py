"""Plans `dmcnn-restore` before anything is read: the files, and their results' paths."""

import collections
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dmcnn_jax.cli.process import UsageError
from dmcnn_jax.cli.real_paths import KnownFiles, RealPaths
from dmcnn_jax.images.extensions import JPEG_EXTENSIONS, LOSSLESS_EXTENSIONS
from dmcnn_jax.images.input_folders import Skipped, find_jpegs
from dmcnn_jax.images.output_names import distinct_targets
from dmcnn_jax.system.printable import printable


@dataclasses.dataclass(eq=False)
class Task:
    """One file to restore.

    Attributes:
        source: path of the file; None for standard input.
        target: path of the result; None for standard output.
        refusal: reason why it must not be restored, or "".
        skip: reason why it need not be restored, or "".
        original: path at which its original is kept, if it is restored in place.
    """

    source: Path | None
    target: Path | None
    refusal: str = ""
    skip: str = ""
    original: Path | None = None

    @property
    def name(self) -> str:
        """Name of the input in messages and reports."""
        return "<standard input>" if self.source is None else str(self.source)

    @property
    def shown(self) -> str:
        """The name with control characters escaped, for terminals."""
        return printable(self.name)

    @property
    def output(self) -> str | None:
        """Path of the result in reports; None for standard output."""
        return None if self.target is None else str(self.target)


@dataclasses.dataclass
class Plan:
    """The plan of a run.

    Attributes:
        tasks: in the order of the inputs; the files of a folder are sorted.
        remarks: lines to print before restoring.
    """

    tasks: list[Task]
    remarks: list[str]


def plan(
    inputs: Sequence[str],
    output: str | None,
    extension: str,
    overwrite: bool = False,
    suffix: str | None = None,
    *,
    decoded: bool = False,
) -> Plan:
    """Returns the plan of restoring inputs to an output.

    A single folder's structure is mirrored in the output folder; each of several folders is
    mirrored in its own subfolder, named after it. Results that would have the same name get
    distinct ones (`distinct_targets`).

    Args:
        inputs: files, folders, "-" for standard input.
        output: a folder, a file, "-" for standard output, or None: beside each input, as
            `photo-restored.png` and `holiday-restored/`.
        extension: of files that are written to folders, with its dot.
        overwrite: whether existing files are replaced.
        suffix: added to the names of results, and of folders beside the inputs; None: "-restored"
            beside the inputs, nothing in folders.
        decoded: whether PNG, WebP, BMP and TIFF files in folders are restored too.

    Returns:
        The plan.

    Raises:
        UsageError: if inputs and output contradict each other.
    """
    folders = _folders(inputs)
    _check_usage(inputs, output, folders)
    _check_suffix(suffix, inputs, output)
    beside, ending = _BESIDE if suffix is None else suffix, f"{suffix or ''}{extension}"
    wanted = JPEG_EXTENSIONS + (LOSSLESS_EXTENSIONS if decoded else ())
    if output is None or output == "-":
        tasks, remarks = _tasks_beside(inputs, output, folders, beside, ending, extension, wanted)
    else:
        if suffix is not None and _names_a_file(inputs, output, folders):
            raise UsageError(f"--suffix can't be used with -o {output!r}, which names the result")
        tasks, remarks = _tasks_in_output(inputs, output, folders, ending, wanted)
    if len(inputs) > 1:
        _refuse_special(tasks, {Path(each) for each in inputs})
    real_path = RealPaths()
    _skip_repeated(tasks, real_path)
    remarks += _name_apart(tasks)
    _refuse_and_skip(tasks, overwrite, real_path)
    return Plan(tasks, remarks)


def _tasks_beside(
    inputs: Sequence[str],
    output: str | None,
    folders: Sequence[Path],
    beside: str,
    ending: str,
    extension: str,
    wanted: Sequence[str],
) -> tuple[list[Task], list[str]]:
    """Returns tasks and remarks for results beside the inputs, or on standard output."""
    tasks: list[Task] = []
    remarks: list[str] = []
    skipped = Skipped()
    for each in inputs:
        if Path(each) in folders:
            mirror = _folder_beside(Path(each), beside)
            tasks += _folder_tasks(Path(each), mirror, mirror, ending, skipped, wanted)
            remarks.append(f"the results of {each} go to {mirror}")
        else:
            tasks.append(_task_without_folder(each, output, f"{beside}{extension}"))
    return tasks, remarks + skipped.lines()


def _tasks_in_output(
    inputs: Sequence[str], output: str, folders: Sequence[Path], ending: str, wanted: Sequence[str]
) -> tuple[list[Task], list[str]]:
    """Returns tasks and remarks for results in an output folder, or in an output file."""
    destination = Path(output)
    to_file = _names_a_file(inputs, output, folders)
    if not to_file and destination.is_file():
        raise UsageError(f"-o {output!r} is a file; expected a folder for several pictures")
    mirrors, skipped = mirror_folders(folders, destination), Skipped()
    tasks: list[Task] = []
    for each in inputs:
        path = None if each == "-" else Path(each)
        if path is not None and path in mirrors:
            mirror = mirrors[path]
            tasks += _folder_tasks(path, mirror, destination, ending, skipped, wanted)
        elif to_file:
            tasks.append(Task(path, destination))
        else:
            stem = "restored" if path is None else path.stem
            tasks.append(Task(path, destination / f"{stem}{ending}"))
    return tasks, _describe_mirrors(mirrors, destination) + skipped.lines()


def mirror_folders(folders: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Returns for each input folder the folder that mirrors it.

    A single folder is mirrored in the output itself. Several folders each get a subfolder with
    their name; equal names are preceded by as many parent folders as distinguish them: `2023/may`
    and `2024/may` instead of `may`.

    Args:
        folders: input folders; one may be named twice.
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


def _folders(inputs: Sequence[str]) -> list[Path]:
    # os.path.isdir returns False, where Path.is_dir raises, for long names and unsearchable
    # folders.
    return [Path(each) for each in inputs if each != "-" and os.path.isdir(each)]


def _check_usage(inputs: Sequence[str], output: str | None, folders: Sequence[Path]) -> None:
    if output == "":
        raise UsageError("-o is ''; expected a folder, a file or -")
    if "-" in inputs and len(inputs) > 1:
        raise UsageError("standard input can't be combined with other inputs; expected - alone")
    if output == "-" and (len(inputs) > 1 or folders):
        raise UsageError("standard output takes one picture; name a folder with -o")
    unnamed = [folder for folder in folders if output is None and not _name_of(folder)]
    if unnamed:
        raise UsageError(f"{str(unnamed[0])!r} has no name; name a folder for its pictures with -o")


# The default suffix of results beside their inputs.
_BESIDE = "-restored"


def _check_suffix(suffix: str | None, inputs: Sequence[str], output: str | None) -> None:
    """Raises a UsageError if a suffix can't be part of a name, or doesn't apply."""
    if suffix is None:
        return
    if set(suffix) & {"/", "\\"} or not suffix.isprintable():
        raise UsageError(f"--suffix is {suffix!r}; expected a part of a name, such as _clean")
    if output == "-" or (output is None and "-" in inputs):
        raise UsageError("--suffix is for names of files, and standard output has none")


def _name_of(folder: Path) -> str:
    """Returns the name of a folder, even if it is given as "." or ".."."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def _folder_beside(folder: Path, suffix: str) -> Path:
    """Returns the default output folder of a folder, such as `holiday-restored`."""
    around = folder.parent if folder.name not in ("", "..") else folder.resolve().parent
    return around / f"{_name_of(folder)}{suffix}"


def _names_a_file(inputs: Sequence[str], output: str, folders: Sequence[Path]) -> bool:
    """Returns whether the output names a file: there is one input, and an extension."""
    return (
        not folders
        and len(inputs) == 1
        and not output.endswith(("/", os.sep))
        and not Path(output).is_dir()
        and Path(output).suffix != ""
    )


def _task_without_folder(name: str, output: str | None, ending: str) -> Task:
    """Returns the task of a file that goes to standard output, or beside its input.

    Args:
        name: of the input.
        output: "-" for standard output, or None.
        ending: added to the input's name, without its extension, in the result's name.
    """
    if name == "-":
        return Task(None, None)
    path = Path(name)
    if output == "-":
        return Task(path, None)
    return Task(path, path.with_name(f"{path.stem}{ending}"))


def _folder_tasks(
    folder: Path,
    mirror: Path,
    output: Path,
    ending: str,
    skipped: Skipped,
    wanted: Sequence[str],
) -> Iterator[Task]:
    for path, reason in find_jpegs(folder, output, skipped, wanted):
        if reason:
            yield Task(path, None, refusal=reason)
        else:
            relative = path.relative_to(folder)
            yield Task(path, mirror / relative.with_name(f"{path.stem}{ending}"))


def _describe_mirrors(mirrors: Mapping[Path, Path], output: Path) -> list[str]:
    """Returns a line for each input folder that shares its name, with its output folder."""
    return [
        f"{folder} goes to {mirror}: another input folder is also called {folder.resolve().name!r}"
        for folder, mirror in mirrors.items()
        if mirror.parent != output and mirror != output
    ]


def _refuse_special(tasks: Sequence[Task], named: set[Path]) -> None:
    """Refuses named inputs that are pipes or devices, for which a batch could wait forever."""
    for task in tasks:
        if task.source in named and os.path.exists(task.source) and not os.path.isfile(task.source):
            task.refusal = task.refusal or "not a regular file; name it alone, or pipe it in by -"


def _skip_repeated(tasks: Sequence[Task], real_path: RealPaths) -> None:
    """Marks tasks that repeat the file and result of an earlier one."""
    known: set[tuple[str, Path]] = set()
    for task in tasks:
        if task.source is None or task.target is None:
            continue
        pair = real_path(task.source), task.target
        if pair in known:
            task.skip = "it was named before"
        known.add(pair)


def _name_apart(tasks: Sequence[Task]) -> list[str]:
    """Changes targets that several tasks share; returns a line about them, if there are any."""
    named = [task for task in tasks if task.source and task.target and not task.skip]
    pairs = [(task.source, task.target) for task in named if task.source and task.target]
    renamed = []
    for task, target in zip(named, distinct_targets(pairs), strict=True):
        if task.target != target:
            task.target = target
            renamed.append(task)
    if not renamed:
        return []
    return [
        f"the results of {len(renamed)} files would have the name of another, and get names of"
        f" their own: that of {renamed[0].name} is {renamed[0].output}"
    ]


def _refuse_and_skip(tasks: Sequence[Task], overwrite: bool, real_path: RealPaths) -> None:
    """Marks tasks whose results must not or need not be written."""
    sources = KnownFiles((task.source for task in tasks if task.source), real_path)
    for task in tasks:
        if task.target is None or task.skip:
            continue
        if source := sources.find(task.target):
            task.refusal = f"its result would overwrite the input {source}; choose another -o"
        elif os.path.isdir(task.target):
            task.refusal = f"its result would be {task.target}, which is a folder"
        elif not overwrite and os.path.lexists(task.target):
            task.skip = already_there(task.target)


def already_there(target: Path) -> str:
    """Returns the reason for skipping a file whose result exists."""
    return f"{target} exists; --overwrite replaces it"
