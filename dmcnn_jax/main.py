r"""Trains the network of a configuration and evaluates it.

python -m dmcnn_jax.main --config configs/qf20.py
python -m dmcnn_jax.main --config configs/qf10.py --mode=evaluate --weights=dmcnn-qf10 \
    --config.evaluate.images=DIR
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("dmcnn_jax: interrupted")  # imports take seconds

import jax

try:
    from absl import app, flags, logging
    from ml_collections import ConfigDict, config_flags
except ModuleNotFoundError as error:
    missing = f'training needs {error.name}; pip install "dmcnn-jax[train]"'
    if __name__ == "__main__":
        sys.exit(f"dmcnn_jax: {missing}")
    raise ImportError(missing) from error

from dmcnn_jax.cli.process import (
    FAILED,
    INTERRUPTED,
    OK,
    ending_unread,
    first_line,
    prepare_process,
    silence_pillow,
)
from dmcnn_jax.config.files import find_config
from dmcnn_jax.config.validation import batch_sizes, validate_config
from dmcnn_jax.data import images
from dmcnn_jax.system import devices
from dmcnn_jax.system.printable import printable
from dmcnn_jax.version import __version__

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config",
    None,
    "A file, or the name of one in configs/; change its fields with --config.FIELD=VALUE.",
)
flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate"], "Train and then evaluate, or only evaluate."
)
flags.DEFINE_string(
    "weights",
    None,
    "Weights to evaluate: a bundled name, a weights file or a workdir (default: the workdir).",
)
flags.DEFINE_string("workdir", None, "Shorthand for --config.workdir.")
flags.DEFINE_bool("profile", False, "Write a trace of a few training steps to the workdir.")
flags.DEFINE_bool(
    "distributed",
    False,
    "Train together with the other processes that Slurm, MPI or Cloud TPU started.",
)
flags.DEFINE_string("coordinator", None, "Train with several processes: host:port of process 0.")
flags.DEFINE_integer("num_processes", None, "Train with several processes: number of processes.")
flags.DEFINE_integer(
    "process_id", None, "Train with several processes: number of this one, from 0."
)
flags.mark_flag_as_required("config")


def main(argv: Sequence[str]) -> int:
    """Trains or evaluates as the flags say, and returns the exit status.

    An error that a user can resolve becomes one line on standard error and status 1; an interrupt,
    status 130.
    """
    if len(argv) > 1:
        raise app.UsageError(
            f"unexpected argument {argv[1]!r}; expected flags only, such as --mode=evaluate"
        )
    # Orbax logs every file that it writes, and errors that it then raises.
    logging.set_verbosity(logging.FATAL)
    prepare_process()
    silence_pillow()
    config = FLAGS.config
    workdir = Path(FLAGS.workdir or config.workdir or Path("runs") / config.name)
    try:
        _run(config, workdir)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        _exit_with(FAILED, first_line(error))
    except KeyboardInterrupt as error:
        # At the first interrupt, training stops after a step, with a message; at the second, at
        # once.
        _exit_with(INTERRUPTED, str(error) or "interrupted", at_once=not str(error))
    return OK


def parse_flags(arguments: Sequence[str]) -> list[str]:
    """Parses the flags and returns the other arguments; for `absl.app.run`.

    A mistake in the flags is one line on standard error and exit status 1.
    """
    with ending_unread():
        if "--version" in arguments:
            print(f"dmcnn_jax {__version__}")
            sys.exit(OK)
        return _parse_flags(arguments)


def _parse_flags(arguments: Sequence[str]) -> list[str]:
    arguments, config = list(arguments), ""
    try:
        config = _find_config(arguments)
        rest = FLAGS(arguments)
        _ = FLAGS.config.name  # absl reports a missing file only when the configuration is used
        return rest
    except SystemExit:
        sys.exit(OK)  # absl has printed its help, and treats that as a failure
    except BrokenPipeError:
        raise  # the help's reader has gone
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        mistake = _flag_mistake(error)
        if "get_config() takes 0 positional" in mistake:
            mistake = f"{config.partition(':')[0]!r} takes no argument; expected none after a colon"
        _exit_with(FAILED, f"{mistake}; see --help")


def _find_config(arguments: list[str]) -> str:
    """Puts the path of the configuration into arguments that name it; returns the path.

    Raises:
        FileNotFoundError: if there is no such configuration.
    """
    path = ""
    for index, argument in enumerate(arguments):
        flag, equals, name = argument.partition("=")
        if flag not in ("--config", "-config"):
            continue
        if not equals:
            index, name = index + 1, "".join(arguments[index + 1 : index + 2])
        if name:
            path = find_config(name)
            arguments[index] = f"{flag}={path}" if equals else path
    return path


def _run(config: ConfigDict, workdir: Path) -> None:
    processes = (FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if FLAGS.distributed or any(value is not None for value in processes):
        devices.init_distributed(*processes)
    validate_config(config)
    if FLAGS.mode == "train":
        devices.use_cores_as_devices(batch_sizes(config))
    if config.evaluate.images:
        images.find_images(config.evaluate.images)  # raises before training, not after it
    if FLAGS.mode == "train":
        from dmcnn_jax.training.loop import train

        train(config, workdir, profile=FLAGS.profile)
        if jax.process_count() > 1:
            # One process evaluates; the others would only wait for it.
            if devices.is_main():
                print(f"trained; evaluate in one process: --mode=evaluate --weights={workdir}")
            return
    from dmcnn_jax.evaluation.protocol import evaluate_config

    evaluate_config(config, FLAGS.weights or workdir, workdir)


def _flag_mistake(error: BaseException) -> str:
    """Returns the mistake in the flags, on one line."""
    cause: object = error
    # The innermost text; `str` of a KeyError would quote it.
    while isinstance(cause, Exception) and cause.args and not isinstance(cause, OSError):
        cause = cause.args[0]
    lines = str(cause).strip().splitlines()
    # An error inside a configuration comes with its traceback; the last line is the error.
    text = (lines[-1] if "Traceback" in str(cause) else " ".join(map(str.strip, lines))).strip()
    if "--config must have a value" in text:
        return "no --config; expected a file or a name, such as --config=quickstart"
    # ml_collections names a missing field, and perhaps the nearest one.
    field = re.fullmatch(r"'(\w+)'(?: Did you mean \"(\w+)\".*)?", text)
    if field:
        hint = f"; did you mean {field[2]!r}?" if field[2] else ""
        return f"the configuration has no field {field[1]!r}{hint}"
    return text.removeprefix("ValueError: ")


def _exit_with(status: int, message: str, *, at_once: bool = False) -> NoReturn:
    """Ends the process with a line on standard error."""
    print(f"dmcnn_jax: {printable(message)}", file=sys.stderr, flush=True)
    # A normal exit would wait for running steps, and for other processes, which may be gone.
    if at_once or jax.distributed.is_initialized():
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
