"""The command `dmcnn-plot`: draws a run's curves."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from dmcnn_jax.system.atomic_write import write_file
from dmcnn_jax.training.plots import draw, read_log, write_csv


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; an error that a user can mend is one line and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="dmcnn-plot", description="A run's curves, as a table and as a plot."
    )
    parser.add_argument("workdir", help="of the run")
    parser.add_argument(
        "-o", "--output", nargs="+", required=True, help="files to write: .csv, or .png, .svg, .pdf"
    )
    options = parser.parse_args(argv)
    try:
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
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"dmcnn_jax: {error}")
