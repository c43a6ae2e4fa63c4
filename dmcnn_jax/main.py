"""Flags, then one call.

python -m dmcnn_jax.main --config configs/qf20.py
python -m dmcnn_jax.main --config configs/qf10.py --mode=evaluate --weights=dmcnn-qf10
--config.evaluate.images=DIR
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from dmcnn_jax.config.validation import batch_sizes, validate_config
from dmcnn_jax.data import images
from dmcnn_jax.system import devices
from dmcnn_jax.system.compile_cache import enable_compilation_cache
from dmcnn_jax.system.malloc import tune_malloc

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config", None, "A file in configs/; change fields with --config.FIELD=VALUE."
)
flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate"], "Train (and then evaluate), or evaluate alone."
)
flags.DEFINE_string(
    "weights",
    None,
    "What to evaluate: a bundled name, a .safetensors file or a workdir; default: config.workdir.",
)
flags.DEFINE_string("workdir", None, "Shorthand for --config.workdir.")
flags.DEFINE_bool("profile", False, "Write a trace of a few training steps to the workdir.")
flags.DEFINE_bool(
    "distributed",
    False,
    "Train together with the other processes that Slurm, MPI or Cloud TPU tell of.",
)
flags.DEFINE_string("coordinator", None, "Train together by hand: host:port of process 0.")
flags.DEFINE_integer("num_processes", None, "Train together by hand: how many processes.")
flags.DEFINE_integer("process_id", None, "Train together by hand: which this is, from 0.")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    """Does what the flags say; an error that a user can mend is one line and exit status 1."""
    if len(argv) > 1:
        raise app.UsageError(
            f"unexpected argument {argv[1]!r}; expected flags only, such as --mode=evaluate"
        )
    # Orbax tells of every file that it writes, and of errors before it raises them.
    logging.set_verbosity(logging.FATAL)
    tune_malloc()
    enable_compilation_cache()
    config = FLAGS.config
    workdir = Path(FLAGS.workdir or config.workdir or Path("runs") / config.name)
    try:
        _run(config, workdir)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        _leave(f"dmcnn_jax: {error}", 1)
    except KeyboardInterrupt as error:
        # Without a message it was a second interrupt, which waits for nothing.
        _leave(f"dmcnn_jax: {str(error) or 'interrupted'}", 130, at_once=not str(error))


def _run(config: Mapping[str, Any], workdir: Path) -> None:
    by_hand = (FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if FLAGS.distributed or any(value is not None for value in by_hand):
        devices.connect(*by_hand)
    validate_config(config)
    if FLAGS.mode == "train":
        devices.use_cores_as_devices(batch_sizes(config))
    if config.evaluate.images:
        images.find_images(config.evaluate.images)  # fails, if it does, before all training
    if FLAGS.mode == "train":
        from dmcnn_jax.training.loop import train

        train(config, workdir, profile=FLAGS.profile)
        if jax.process_count() > 1:
            # What one process does is no work for many, which would wait for it.
            if devices.is_main():
                print(f"trained; evaluate it by one process: --mode=evaluate --weights={workdir}")
            return
    from dmcnn_jax.evaluation.protocol import evaluate_config

    evaluate_config(config, FLAGS.weights or workdir, workdir)


def _parse(arguments: list[str]) -> list[str]:
    """What the flags leave of the arguments; a mistake in them is one line, too."""
    try:
        rest = FLAGS(arguments)
        _ = FLAGS.config.name  # where a file that is missing is told of
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        text: Any = error
        while isinstance(text, Exception) and text.args and not isinstance(text, OSError):
            text = text.args[0]  # the text of a KeyError has quotes around it
        # Of an error in a configuration the last line says what it is.
        lines = str(text).strip().splitlines()
        text = lines[-1] if "Traceback" in str(text) else " ".join(map(str.strip, lines))
        _leave(f"dmcnn_jax: {text.strip()}; see --help", 1)


def _leave(message: str, status: int, *, at_once: bool = False) -> None:
    print(message, file=sys.stderr, flush=True)
    # An orderly end would wait for steps begun, and for other processes, which may be gone.
    if at_once or jax.distributed.is_initialized():
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
