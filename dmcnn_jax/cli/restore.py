"""The command `dmcnn-restore`: restores JPEG files and folders of them."""

import argparse
import signal
from collections.abc import Sequence

from dmcnn_jax.cli.arguments import make_parser, restore_options
from dmcnn_jax.cli.batch import BatchRun, check_report, write_json
from dmcnn_jax.cli.messages import UsageError, first_line, say
from dmcnn_jax.cli.signals import Interrupter
from dmcnn_jax.system.compile_cache import enable_compilation_cache
from dmcnn_jax.system.malloc import tune_malloc


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: its arguments; by default those of the process.

    Returns:
        The exit status.
    """
    parser = make_parser()
    options = parser.parse_args(argv)
    if options.serve is not None:
        if options.inputs or options.output:
            parser.error("--serve takes no files; they are dropped on its page")
    elif options.verify:
        if options.inputs:
            parser.error("--verify takes two files and no others")
    elif not options.inputs:
        parser.error("nothing to restore; name files or folders, or - for standard input")
    interrupter = Interrupter()
    previous = signal.signal(signal.SIGTERM, interrupter)
    try:
        if not options.verify:
            tune_malloc()
            enable_compilation_cache()
        if options.device:
            import jax

            jax.config.update("jax_platforms", options.device)
            jax.devices()  # fails, if it does, here
        if options.serve is not None:
            return _serve(options)
        return _verify(options) if options.verify else BatchRun(options).run()
    except KeyboardInterrupt:
        say("interrupted; what was finished is whole, nothing else was written")
        return 130
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        say(first_line(error))
        return 2 if isinstance(error, UsageError) else 1
    finally:
        interrupter.stop()
        signal.signal(signal.SIGTERM, previous)


def _serve(options: argparse.Namespace) -> int:
    from dmcnn_jax.restoration.restorer import Restorer
    from dmcnn_jax.web import server

    restorer = Restorer(options.weights, restore_options(options))
    limits = {"max_pixels": options.max_pixels, "allow_truncated": options.allow_truncated}
    server.serve(server.restoring(restorer, **limits), port=options.serve)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from dmcnn_jax.restoration.verification import verify

    check_report(options.json, options.verify)
    limits = {"max_pixels": options.max_pixels, "allow_truncated": options.allow_truncated}
    verdict = verify(*options.verify, **limits)
    if options.json:
        write_json(options.json, verdict.to_json())
    if not options.quiet and options.json != "-":
        print("\n".join(verdict.lines()))
    return 0 if verdict.passed else 1
