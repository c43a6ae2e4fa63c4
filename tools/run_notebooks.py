"""Runs the notebooks and stores their outputs, small.

    python tools/run_notebooks.py
    python tools/run_notebooks.py --set train_on_colab STEPS=300 BATCH=8 FEATURES=16

--set runs a notebook with other parameters than those written in it; a sentence in the notebook
should say so. Messages on standard error, and outputs of shell commands, are not stored.
"""

import argparse
import ast
import base64
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("run_notebooks: interrupted")  # imports take seconds

from PIL import Image

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import UsageError, command_parser
from dmcnn_jax.system.atomic_write import write_file

ROOT = Path(__file__).resolve().parents[1]
_LARGE = 150_000  # characters of a PNG file in base64, beyond which a picture is stored as JPEG


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    add = parser.add_argument
    add("--only", metavar="NAME", help="run this notebook alone")
    add("--set", nargs="+", action="append", default=[], metavar=("NAME", "FIELD=VALUE"))
    options = parser.parse_args(argv)
    return run_main("run_notebooks", lambda: _run(options), argv)


def _run(options: argparse.Namespace) -> None:
    parameters = {name: _parse_fields(fields) for name, *fields in options.set}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if options.only in (None, path.stem):
            run_notebook(path, parameters.get(path.stem, {}))
            print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


def _parse_fields(fields: Sequence[str]) -> dict[str, Any]:
    """Returns values by name, from FIELD=VALUE."""
    pairs = [field.partition("=") for field in fields]
    try:
        return {name: ast.literal_eval(value) for name, _, value in pairs}
    except (SyntaxError, ValueError):
        raise UsageError(f"--set has {fields}; expected FIELD=VALUE, Python literals") from None


def run_notebook(path: Path, parameters: dict[str, Any]) -> None:
    """Runs a notebook in an empty folder, and writes its outputs into it.

    Args:
        path: the notebook; one of its cells has the tag "parameters".
        parameters: values by name, assigned after that cell.
    """
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    at = next(i for i, names in enumerate(tags) if "parameters" in names)
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(source))
    shell = [cell for cell in notebook.cells if cell.source.startswith("!")]
    for cell in shell:
        cell.source = f"# {cell.source}"
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        nbclient.NotebookClient(notebook, timeout=3600, resources=where).execute()
    del notebook.cells[at + 1]
    for cell in shell:
        cell.source = cell.source.removeprefix("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        cell.execution_count = number
        cell.metadata.pop("execution", None)
        cell.outputs = [_shrink(output) for output in cell.outputs if _is_kept(output)]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
    write_file(path, (nbformat.writes(notebook) + "\n").encode())


def _is_kept(output: Any) -> bool:
    """Whether an output is a result rather than a message on standard error."""
    return bool(output.get("name") != "stderr")


def _shrink(output: Any) -> Any:
    """Returns an output with a large PNG file turned into a JPEG file of quality 90."""
    png = output.get("data", {}).get("image/png")
    if png and len(png) > _LARGE:
        content = io.BytesIO()
        with Image.open(io.BytesIO(base64.b64decode(png))) as image:
            image.convert("RGB").save(content, "JPEG", quality=90, subsampling=0, optimize=True)
        del output.data["image/png"]
        output.data["image/jpeg"] = base64.b64encode(content.getvalue()).decode()
    elif png:
        output.data.pop("image/jpeg", None)
    return output


if __name__ == "__main__":
    sys.exit(main())
