"""The command `dmcnn-archive`: restores archives of millions of JPEG files, each file once."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import (
    UsageError,
    command_parser,
    naming_output,
    say,
)

if TYPE_CHECKING:
    from dmcnn_jax.archives.driver import RunResult
    from dmcnn_jax.archives.plan import Archive

_NAME = "dmcnn-archive"
_INTERRUPTED = "interrupted; finished files are kept, and the same command resumes"

_EXAMPLES = """examples:
  dmcnn-archive plan photos/ cleaned/                 a folder, with its subfolders
  dmcnn-archive plan s3://mine/photos s3://mine/clean objects; pip install s3fs
  dmcnn-archive plan list.txt cleaned/ --format jpg   an address on each line
  dmcnn-archive plan 'train-*.tar' cleaned/           members of webdataset's tar files
  dmcnn-archive run cleaned/                          on all cores of this machine
  dmcnn-archive run cleaned/ --workers 4              on four of them
  dmcnn-archive run cleaned/ --address auto           on a Ray cluster
  dmcnn-archive run cleaned/ --shard 17/400           job 17 of 400, without Ray
  dmcnn-archive status cleaned/                       files done and failed, rate
  dmcnn-archive verify cleaned/                       compares results with their digests

The plan, reports and journals are in the folder _archive of the target.

exit status: 0 done (files that can't be restored are listed in the report), 1 shards are left, or
verify found a fault, 2 the arguments are wrong, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dmcnn-archive` and returns its exit status.

    Args:
        argv: its arguments; by default those of the process.
    """
    return run_main(_NAME, lambda: _run(argv), argv, interrupted=_INTERRUPTED)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of `dmcnn-archive`."""
    parser = command_parser(
        _NAME, "Restores archives of any number of JPEG files, each file once.", _EXAMPLES
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_plan(commands.add_parser("plan", help="list the files and fix how they are restored"))
    _add_run(commands.add_parser("run", help="restore the files that are not done"))
    for name, purpose, described in (
        (
            "status",
            "print the files done and failed, the rate and the time left",
            "Prints the files done and failed, the rate and the time left",
        ),
        (
            "verify",
            "check that each file has its result, with the recorded bytes",
            "Checks that each file has its result, with the recorded bytes",
        ),
    ):
        command = commands.add_parser(name, help=purpose, description=f"{described}.")
        _add_target(command.add_argument)
        command.add_argument("--json", action="store_true", help="print JSON")
        if name == "verify":
            _add_sample(command.add_argument)
    return parser


def _add_target(add: Callable[..., argparse.Action]) -> None:
    add("plan", metavar="PLAN", help="target of a plan: a folder or an address")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    from dmcnn_jax.cli.restore_arguments import (
        add_earlier_save_options,
        add_engine_options,
        add_format_options,
        add_restoring_options,
        number_between,
    )

    parser.description = "Lists the files of an archive and fixes how they are restored."
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        help="a folder; an address such as s3://bucket/photos; a tar file, or a pattern for"
        " several; or a .txt file with an address on each line",
    )
    add("target", metavar="TARGET", help="folder or address for the results and the plan")
    add(
        "--shard-size",
        type=number_between(int, 1, 10**6),
        default=1000,
        metavar="N",
        help="number of files in a shard, the unit of work (default: 1000)",
    )
    add(
        "--cores-per-worker",
        type=number_between(int, 1, 1024),
        default=1,
        metavar="N",
        help="cores of each worker (default: 1, fastest for many small files); part of the plan,"
        " since the last bits of OpenVINO's results depend on it",
    )
    add(
        "--overwrite",
        action="store_true",
        help="accept a target that is not empty; files with the names of results are replaced",
    )
    add("-q", "--quiet", action="store_true", help="print errors only")
    add_format_options(parser.add_argument_group("output").add_argument)
    add_restoring_options(parser.add_argument_group("restoration").add_argument)
    add_earlier_save_options(parser.add_argument_group("earlier saves").add_argument)
    add_engine_options(parser.add_argument_group("computing").add_argument)


def _add_run(parser: argparse.ArgumentParser) -> None:
    from dmcnn_jax.cli.restore_arguments import number_between

    parser.description = "Restores the files of an archive that are not done."
    add = parser.add_argument
    _add_target(add)
    add(
        "--workers",
        type=number_between(int, 1, 10**5),
        metavar="N",
        help="number of workers (default: as many as cores or GPUs allow)",
    )
    add(
        "--driver",
        choices=("auto", "ray", "processes"),
        default="auto",
        help="driver of the workers: Ray, or plain processes on this machine (default: Ray if it"
        " is installed and no --shard is given)",
    )
    add(
        "--address",
        metavar="HOST:PORT",
        help="address of a Ray cluster, or auto for the cluster of this machine (default: start"
        " Ray on this machine only)",
    )
    add(
        "--gpus-per-worker",
        type=number_between(float, 0, 64),
        default=0,
        metavar="G",
        help="GPUs that Ray gives each worker, such as 1 or 0.5 (default: 0, on the CPU)",
    )
    add(
        "--shard",
        type=_share,
        metavar="I/N",
        help="restore the I-th of N shares of the shards, 1/N to N/N, without Ray; for job arrays",
    )
    add(
        "--retry-failed",
        action="store_true",
        help="restore again the files recorded as failed",
    )
    add("-q", "--quiet", action="store_true", help="print errors only")


def _add_sample(add: Callable[..., argparse.Action]) -> None:
    from dmcnn_jax.cli.restore_arguments import number_between

    add(
        "--sample",
        type=number_between(int, 0, 10**12),
        default=100,
        metavar="N",
        help="approximate number of results whose coefficients are counted again (default: 100)",
    )
    add("--all", action="store_true", help="count the coefficients of all results again")


def _share(text: str) -> tuple[int, int]:
    """Parses "17/400" as two numbers."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r}; expected I/N from 1/N to N/N, as in 17/400")
    return int(part), int(parts)


def _run(argv: Sequence[str] | None) -> int:
    options = make_parser().parse_args(argv)
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError('archives need pyarrow; pip install "dmcnn-jax[archive]"')
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "plan": _plan,
        "run": _run_shards,
        "status": _status,
        "verify": _verify,
    }
    return commands[options.command](options)


def _plan(options: argparse.Namespace) -> int:
    from dmcnn_jax.archives.options import ArchiveOptions, resolve
    from dmcnn_jax.archives.planning import make_plan
    from dmcnn_jax.cli.restore_arguments import jpeg_options, restore_options

    extension = "." + (options.format or "png").lstrip(".")
    try:
        chosen = ArchiveOptions(
            restore=restore_options(options),
            jpeg=jpeg_options(options),
            extension=extension,
            quality=options.quality,
            upright=options.upright,
            weights=options.weights,
            max_pixels=options.max_pixels,
            allow_truncated=options.allow_truncated,
            cores=options.cores_per_worker,
        )
        chosen.check()
    except ValueError as error:
        raise UsageError(str(error)) from None
    plan, remarks = make_plan(
        options.source,
        options.target,
        resolve(chosen),
        shard_size=options.shard_size,
        overwrite=options.overwrite,
        progress=None if options.quiet else lambda files: say(_NAME, f"{files:,} files listed"),
    )
    if not options.quiet:
        for line in remarks:
            say(_NAME, line)
        restore = plan.options.restore
        say(
            _NAME,
            f"{plan.files:,} files in {plan.shards:,} shards, to be restored by the {restore.size}"
            f" models with {restore.engine}; next: {_NAME} run {options.target}",
        )
    return 0


def _run_shards(options: argparse.Namespace) -> int:
    from dmcnn_jax.archives.driver import pending_shards, share_of_shards
    from dmcnn_jax.archives.plan import Archive

    driver = _choose_driver(options)
    archive = Archive(options.plan)
    chosen = None
    if options.shard:
        part, parts = options.shard
        chosen = share_of_shards(part - 1, parts, archive.plan.shards)
    pending = list(pending_shards(archive, chosen, retry_failed=options.retry_failed))

    def tell(line: str) -> None:
        if not options.quiet:
            say(_NAME, line)

    if not pending:
        tell("nothing is missing")
        return 0
    result = _drive(driver, options, archive, pending, tell)
    for shard, why in sorted(result.left.items())[:10]:
        say(_NAME, f"shard {shard} is left: {why}")
    counts = ", ".join(f"{count:,} {status}" for status, count in sorted(result.counts.items()))
    tell(f"{result.finished:,} shards are done: {counts or 'no files'}")
    missing = len(pending) - result.finished
    if missing:
        say(_NAME, f"{missing:,} shards are left; the same command restores them")
    return 1 if missing else 0


def _drive(
    driver: str,
    options: argparse.Namespace,
    archive: "Archive",
    pending: Sequence[int],
    tell: Callable[[str], None],
) -> "RunResult":
    """Restores shards by the chosen driver, which `tell` says beforehand."""
    from dmcnn_jax.archives.driver import Progress

    files = sum(map(archive.plan.rows_in, pending))
    progress = Progress(tell, len(pending), files)
    target, cores = archive.target.address, archive.plan.options.cores
    if driver == "ray":
        from dmcnn_jax.archives.ray_driver import run_on_ray

        tell(f"{len(pending):,} shards of {files:,} files on Ray")
        return run_on_ray(
            target,
            pending,
            options.workers,
            progress,
            address=options.address,
            cores=cores,
            gpus=options.gpus_per_worker,
            retry_failed=options.retry_failed,
        )
    from dmcnn_jax.archives.local_driver import run_on_processes
    from dmcnn_jax.system.cpu import usable_cores

    workers = options.workers or (1 if options.shard else max(1, usable_cores() // cores))
    workers = min(workers, len(pending))
    tell(f"{len(pending):,} shards of {files:,} files on {workers} processes")
    return run_on_processes(target, pending, workers, progress, retry_failed=options.retry_failed)


def _choose_driver(options: argparse.Namespace) -> str:
    """Returns "ray" or "processes".

    Raises:
        UsageError: if options contradict each other.
        ImportError: if Ray is asked for and not installed.
    """
    needs_ray = options.address is not None or options.gpus_per_worker > 0
    if options.shard and (needs_ray or options.driver == "ray"):
        raise UsageError("--shard works without Ray; expected no --address and --gpus-per-worker")
    if options.driver == "processes" and needs_ray:
        raise UsageError("--address and --gpus-per-worker need Ray; expected no --driver processes")
    has_ray = importlib.util.find_spec("ray") is not None
    if (needs_ray or options.driver == "ray") and not has_ray:
        raise ImportError('Ray is not installed; pip install "dmcnn-jax[archive]"')
    if options.driver == "auto":
        return "ray" if has_ray and not options.shard else "processes"
    return str(options.driver)


def _status(options: argparse.Namespace) -> int:
    from dmcnn_jax.archives.plan import Archive
    from dmcnn_jax.archives.status import read_status

    status = read_status(Archive(options.plan))
    _print(options.json, status.lines(), status.to_json())
    return 0


def _verify(options: argparse.Namespace) -> int:
    from dmcnn_jax.archives.plan import Archive
    from dmcnn_jax.archives.verify import verify_archive

    proof = verify_archive(Archive(options.plan), None if options.all else options.sample)
    _print(options.json, proof.lines(), proof.to_json())
    return 0 if proof.passed else 1


def _print(as_json: bool, lines: Sequence[str], values: dict[str, object]) -> None:
    import json

    with naming_output():
        print(json.dumps(values, indent=2) if as_json else "\n".join(lines), file=sys.stdout)
