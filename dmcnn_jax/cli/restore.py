"""The command `dmcnn-restore`: restores JPEG files and folders of them."""

import argparse
import os
from collections.abc import Sequence

from dmcnn_jax.cli.interrupts import signals_as_interrupt
from dmcnn_jax.cli.process import INTERRUPTED, naming_output, prepare_process, run_command

_NAME = "dmcnn-restore"
_INTERRUPTED = "interrupted; finished files are complete, and nothing else was written"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dmcnn-restore` and returns its exit status.

    Args:
        argv: its arguments; by default those of the process.
    """
    # Imports take time, in which an interrupt must not show a traceback either.
    with signals_as_interrupt(f"{_NAME}: {_INTERRUPTED}", keep=argv is None):
        status = run_command(_NAME, lambda: _run(_parse(argv)), interrupted=_INTERRUPTED)
    if status == INTERRUPTED and argv is None:
        # A normal exit waits for threads, a minute for that of JAX's interrupted search for TPUs.
        os._exit(status)
    return status


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the arguments; mistakes end the process, as argparse does."""
    from dmcnn_jax.cli.restore_arguments import make_parser

    parser = make_parser()
    options = parser.parse_args(argv)
    if options.serve is not None:
        if options.inputs or options.output:
            parser.error("--serve takes no files; drop them on its page")
    elif options.verify:
        if options.inputs:
            parser.error("--verify takes two files and no others")
    elif not options.inputs:
        parser.error("nothing to restore; name files or folders, or - for standard input")
    return options


def _run(options: argparse.Namespace) -> int:
    if not options.verify:
        prepare_process()
    if options.device:
        import jax

        jax.config.update("jax_platforms", options.device)
        jax.devices()  # raises a RuntimeError here, not in the middle of the work
    if options.serve is not None:
        return _serve(options)
    if options.verify:
        return _verify(options)
    from dmcnn_jax.cli.restore_batch import BatchRun

    return BatchRun(options).run()


def _serve(options: argparse.Namespace) -> int:
    from dmcnn_jax.cli.restore_arguments import restore_options
    from dmcnn_jax.restoration.restorer import Restorer
    from dmcnn_jax.web import server, upload

    restorer = Restorer(options.weights, restore_options(options))
    limits = {"max_pixels": options.max_pixels, "allow_truncated": options.allow_truncated}
    server.serve(upload.upload_restorer(restorer, **limits), port=options.serve)
    return 0


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
