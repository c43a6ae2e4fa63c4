r"""Trains a list of configurations, each for a number of minutes; collects weights and curves.

python tools/campaign.py configs/fast_qf20.py:8 configs/arcnn.py:cpu:30 \
    --source packs/train --output released

The time of a training step is measured first, to choose the number of steps with which the learning
rate reaches the end of its cosine in time. If interrupted, the same command resumes. A
configuration can start from the weights of a run before it (config.init_from).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dmcnn_jax.cli.process import USER_ERRORS, command_parser, prepare_process, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        metavar="CONFIG[:ARGUMENT]:MINUTES",
        help="a configuration, its argument if it takes one, and minutes to train it for",
    )
    add("--source", required=True, help="training images: a folder or a pack")
    add("-o", "--output", required=True, type=Path, help="folder for weights and curves")
    add(
        "--runs-in",
        type=Path,
        default=Path("runs"),
        help="folder for the runs' own files (default: %(default)s)",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="set a field of every configuration, such as data.luma=full or init_from=dmcnn-qf20",
    )
    options = parser.parse_args(argv)
    # A KeyError names a field that a configuration lacks.
    errors = (*USER_ERRORS, KeyError)
    return run_command("campaign", lambda: _train(options), errors=errors)


def _train(options: argparse.Namespace) -> None:
    parts = [_split(text) for text in options.runs]
    prepare_process()
    from dmcnn_jax.config.files import load_config, set_fields
    from dmcnn_jax.config.validation import batch_sizes
    from dmcnn_jax.system import devices
    from dmcnn_jax.training import timed_runs

    plan = [(load_config(name), minutes) for name, minutes in parts]
    for config, _ in plan:
        config.data.source = options.source
        set_fields(config, options.set)
        config.workdir = str(options.runs_in / config.name)
    devices.use_cores_as_devices([size for config, _ in plan for size in batch_sizes(config)])
    for config, minutes in plan:
        print(f"weights: {timed_runs.run(config, minutes, options.output)}", flush=True)


def _split(text: str) -> tuple[str, float]:
    """Splits CONFIG[:ARGUMENT]:MINUTES at its last colon."""
    name, _, minutes = text.rpartition(":")
    try:
        number = float(minutes)
    except ValueError:
        number = 0.0
    if not name or not number > 0:
        raise ValueError(
            f"{text!r} is not CONFIG[:ARGUMENT]:MINUTES; expected, for example,"
            " configs/fast_qf20.py:8"
        )
    return name, number


if __name__ == "__main__":
    sys.exit(main())
