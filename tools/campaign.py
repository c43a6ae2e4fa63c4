"""Trains a list of configurations, each in so many minutes, and collects weights and curves.

python tools/campaign.py configs/fast_qf20.py:8 configs/fast_qf10.py:8 \
    --source packs/train --output released

The number of steps is measured: the learning rate reaches the end of its cosine when the time is
over. Interrupted, the same command goes on. A configuration that names other weights to start from
(config.init_from) finds those of the run before it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> None:
    """Trains; an error is one line and exit status 1, an interrupt 130."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="CONFIG:MINUTES", help="what, and how long")
    parser.add_argument("--source", required=True, help="config.data.source: images or a pack")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder for what lasts")
    parser.add_argument("--runs-in", type=Path, default=Path("runs"), help="default: %(default)s")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of every configuration, such as data.luma=full or init_from=dmcnn-qf20",
    )
    options = parser.parse_args(argv)
    from dmcnn_jax.config.validation import batch_sizes
    from dmcnn_jax.system import devices
    from dmcnn_jax.system.malloc import tune_malloc
    from dmcnn_jax.training import timed_runs

    tune_malloc()
    try:
        plan = [
            (timed_runs.load_config(path), minutes) for path, minutes in map(_part, options.runs)
        ]
        for config, _ in plan:
            config.data.source = options.source
            timed_runs.set_fields(config, options.set)
            config.workdir = str(options.runs_in / config.name)
        devices.use_cores_as_devices([size for config, _ in plan for size in batch_sizes(config)])
        for config, minutes in plan:
            print(f"weights: {timed_runs.run(config, minutes, options.output)}", flush=True)
    except (ValueError, OSError, ImportError, KeyError, FloatingPointError) as error:
        sys.exit(f"campaign: {error}")
    except KeyboardInterrupt as error:
        print(f"campaign: {error or 'interrupted'}", file=sys.stderr)
        sys.exit(130)


def _part(text: str) -> tuple[str, float]:
    path, _, minutes = text.rpartition(":")
    try:
        number = float(minutes)
    except ValueError:
        number = 0.0
    if not path or not number > 0:
        raise ValueError(f"{text!r} is no CONFIG:MINUTES; expected such as configs/fast_qf20.py:8")
    return path, number


if __name__ == "__main__":
    main()
