"""The command `dmcnn-plot`: draws the curves of a training run."""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import UsageError, command_parser

_EXAMPLES = """examples:
  dmcnn-plot runs/qf20 -o curves.csv curves.png
  dmcnn-plot runs/dmcnn-qf20/?-*/ -o phases.png       the phases of a recipe in one plot
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dmcnn-plot` and returns its exit status."""
    return run_main("dmcnn-plot", lambda: _run(make_parser().parse_args(argv)), argv)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of `dmcnn-plot`."""
    parser = command_parser(
        "dmcnn-plot", "Writes the curves of a training run as a table or a plot.", _EXAMPLES
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of the run, or a table from this command; several runs, which continue each"
        " other, are drawn one after another",
    )
    parser.add_argument(
        "-o",
        "--output",
        nargs="+",
        required=True,
        help="files to write: .csv for a table; .png, .svg or .pdf for a plot",
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    from dmcnn_jax.system.atomic_write import write_file
    from dmcnn_jax.training.plots import draw, read_log, write_csv

    for run in options.runs:
        if not Path(run).is_file() and not read_log(run):
            raise FileNotFoundError(
                f"there is no log.jsonl in {run!r}; expected the workdir of a run that has "
                "logged its loss at least once"
            )
    for output in options.output:
        if output.endswith(".csv"):
            if len(options.runs) > 1:
                raise UsageError(f"{output!r} is a table, which holds one run; expected one RUN")
            write_csv(options.runs[0], output)
            continue
        buffer = io.BytesIO()
        draw(*options.runs).savefig(buffer, format=Path(output).suffix[1:] or None, dpi=80)
        write_file(Path(output), buffer.getvalue())
    print(f"written: {', '.join(options.output)}")
