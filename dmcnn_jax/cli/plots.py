"""The command `dmcnn-plot`: draws the curves of a training run."""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

from dmcnn_jax.cli.process import command_parser, run_command

_EXAMPLES = """example:
  dmcnn-plot runs/qf20 -o curves.csv curves.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dmcnn-plot` and returns its exit status."""
    parser = command_parser(
        "dmcnn-plot", "Writes the curves of a training run as a table or a plot.", _EXAMPLES
    )
    parser.add_argument("workdir", help="folder of the run")
    parser.add_argument(
        "-o",
        "--output",
        nargs="+",
        required=True,
        help="files to write: .csv for a table; .png, .svg or .pdf for a plot",
    )
    options = parser.parse_args(argv)
    return run_command("dmcnn-plot", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    from dmcnn_jax.system.atomic_write import write_file
    from dmcnn_jax.training.plots import draw, read_log, write_csv

    if not read_log(options.workdir):
        raise FileNotFoundError(
            f"there is no log.jsonl in {options.workdir!r}; expected the workdir of a run"
        )
    for output in options.output:
        if output.endswith(".csv"):
            write_csv(options.workdir, output)
            continue
        buffer = io.BytesIO()
        draw(options.workdir).savefig(buffer, format=Path(output).suffix[1:] or None, dpi=70)
        write_file(Path(output), buffer.getvalue())
