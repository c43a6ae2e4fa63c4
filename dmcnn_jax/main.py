"""Flags, then one call.

python -m dmcnn_jax.main --config configs/qf20.py
python -m dmcnn_jax.main --config configs/qf10.py --mode=evaluate --weights=dmcnn-qf10
--config.evaluate.images=DIR
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

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
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    """Does what the flags say; an error that a user can mend is one line and exit status 1."""
    if len(argv) > 1:
        raise app.UsageError(
            f"unexpected argument {argv[1]!r}; expected flags only, such as --mode=evaluate"
        )
    # Orbax tells of every file that it writes.
    logging.set_verbosity(logging.WARNING)
    config = FLAGS.config
    workdir = Path(FLAGS.workdir or config.workdir or Path("runs") / config.name)
    try:
        if FLAGS.mode == "train":
            from dmcnn_jax.train import train

            train(config, workdir)
        from dmcnn_jax.evaluate import evaluate_config

        evaluate_config(config, FLAGS.weights or workdir, workdir)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"dmcnn_jax: {error}")
    except KeyboardInterrupt as error:
        print(f"dmcnn_jax: {error or 'interrupted'}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    app.run(main)
