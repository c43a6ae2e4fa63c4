"""The command `dmcnn-restore`: restores JPEG files and folders of them."""

import argparse
from collections.abc import Sequence

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import (
    UsageError,
    naming_output,
    prepare_process,
)

_NAME = "dmcnn-restore"
_INTERRUPTED = "interrupted; finished files are complete, and nothing else was written"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dmcnn-restore` and returns its exit status.

    Args:
        argv: its arguments; by default those of the process.
    """
    return run_main(_NAME, lambda: _run(_parse(argv)), argv, interrupted=_INTERRUPTED)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the arguments; mistakes end the process, as argparse does."""
    from dmcnn_jax.cli.in_place import check_usage
    from dmcnn_jax.cli.restore_arguments import make_parser

    parser = make_parser()
    options = parser.parse_args(argv)
    try:
        check_usage(options)
    except UsageError as error:
        parser.error(str(error))
    if options.suffix is not None and (options.serve is not None or options.verify):
        parser.error("--suffix is for names of results; --serve and --verify write none")
    if options.serve is not None:
        if options.inputs or options.output:
            parser.error("--serve takes no files; drop them on its page")
    elif options.verify:
        if options.inputs:
            parser.error("--verify takes two files and no others")
    elif not options.inputs:
        parser.error("nothing to restore; name files or folders, or - for standard input")
    if "" in options.inputs:
        parser.error("the name of an input is empty; expected a file, a folder or -")
    return options


def _run(options: argparse.Namespace) -> int:
    if options.undo:
        return _undo(options)
    if not options.verify:
        prepare_process()
    if options.device:
        _use_device(options.device)
    if options.serve is not None:
        return _serve(options)
    if options.verify:
        return _verify(options)
    from dmcnn_jax.cli.restore_batch import BatchRun

    return BatchRun(options).run()


def _use_device(name: str) -> None:
    """Makes JAX use a kind of device; raises a RuntimeError now instead of during the work."""
    import jax

    jax.config.update("jax_platforms", name)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: JAX lacks the plugin
        raise RuntimeError(
            f'--device {name}: JAX finds no such device; it needs pip install "dmcnn-jax'
            f'[{name}]"; without --device, JAX takes the best device that it finds'
        ) from error


def _serve(options: argparse.Namespace) -> int:
    from dmcnn_jax.cli.restore_arguments import restore_options
    from dmcnn_jax.restoration.restorer import Restorer
    from dmcnn_jax.web import server, upload
    from dmcnn_jax.web.choices import Choices

    restorer = Restorer(options.weights, restore_options(options))
    restore = upload.upload_restorer(
        restorer,
        max_pixels=options.max_pixels,
        allow_truncated=options.allow_truncated,
        seconds_per_pixel=upload.SECONDS_PER_PIXEL * (8 if options.ensemble else 1),
    )
    defaults = Choices(strength=options.strength, bits=options.bits)
    server.serve(restore, port=options.serve, defaults=defaults)
    return 0


def _undo(options: argparse.Namespace) -> int:
    from dmcnn_jax.cli.undo import undo

    return undo(options)


def _verify(options: argparse.Namespace) -> int:
    from dmcnn_jax.cli.restore_report import check_report, write_json
    from dmcnn_jax.restoration.verification import verify

    check_report(options.json, options.verify)
    limits = {"max_pixels": options.max_pixels, "allow_truncated": options.allow_truncated}
    verdict = verify(*options.verify, **limits)
    if options.json:
        write_json(options.json, verdict.to_json())
    if not options.quiet and options.json != "-":
        with naming_output():
            print("\n".join(verdict.lines()))
    return 0 if verdict.passed else 1
