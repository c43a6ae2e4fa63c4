"""Trains configurations one after another, each in a given time, and collects weights and curves.

python tools/campaign.py configs/fast_qf20.py:8 configs/arcnn.py:cpu:30 \
    --source packs/train --output released

The number of steps is measured, so that the learning rate reaches the end of its cosine when the
time is over. If interrupted, the same command resumes. A configuration may start from the weights
of an earlier one (config.init_from).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; an error is one line and exit status 1, an interrupt 130."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="CONFIG[:ARGUMENT]:MINUTES",
        help="a configuration, with its argument if it takes one, and the time for it",
    )
    parser.add_argument("--source", required=True, help="config.data.source: images or a pack")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, help="folder for weights and curves"
    )
    parser.add_argument(
        "--runs-in", type=Path, default=Path("runs"), help="folder of workdirs (%(default)s)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of every configuration, such as data.luma=full or init_from=dmcnn-qf20",
    )
    options = parser.parse_args(argv)
    from dmcnn_jax.config.files import load_config, set_fields
    from dmcnn_jax.config.validation import batch_sizes
    from dmcnn_jax.system import devices
    from dmcnn_jax.system.malloc import tune_malloc
    from dmcnn_jax.training import timed_runs

    tune_malloc()
    try:
        plan = [(load_config(name), minutes) for name, minutes in map(_split, options.runs)]
        for config, _ in plan:
            config.data.source = options.source
            set_fields(config, options.set)
            config.workdir = str(options.runs_in / config.name)
        devices.use_cores_as_devices([size for config, _ in plan for size in batch_sizes(config)])
        for config, minutes in plan:
            print(f"weights: {timed_runs.run(config, minutes, options.output)}", flush=True)
    except (ValueError, OSError, ImportError, KeyError, FloatingPointError) as error:
        sys.exit(f"campaign: {error}")
    except KeyboardInterrupt as error:
        print(f"campaign: {error or 'interrupted'}", file=sys.stderr)
        sys.exit(130)


def _split(text: str) -> tuple[str, float]:
    """Splits CONFIG[:ARGUMENT]:MINUTES at its last colon."""
    name, _, minutes = text.rpartition(":")
    try:
        number = float(minutes)
    except ValueError:
        number = 0.0
    if not name or not number > 0:
        raise ValueError(
            f"{text!r} is no CONFIG[:ARGUMENT]:MINUTES; expected such as configs/fast_qf20.py:8"
        )
    return name, number


if __name__ == "__main__":
    main()
