"""The notebooks run from top to bottom, come with their outputs, and hold no logic."""

import ast
import os
import re
from pathlib import Path

import numpy as np
import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: extra 'test'")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert [path.name for path in NOTEBOOKS] == ["restore_photos.ipynb", "train_on_colab.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_come_with_their_outputs_and_hold_no_logic(path):
    inputs = pytest.importorskip(
        "IPython.core.inputtransformer2", reason="no IPython: extra 'test'"
    )
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    logic = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Lambda, ast.Try)
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) >= 2
    assert not any(output.output_type == "error" for output in outputs)
    for output in outputs:
        assert not re.search(
            r"/(home|root|tmp|Users)/", str(output.get("text", output.get("data")))
        )
    for cell in code_cells(notebook):
        tree = ast.parse(inputs.TransformerManager().transform_cell(cell.source))
        assert not any(isinstance(node, logic) for node in ast.walk(tree)), cell.source
    assert path.stat().st_size < 400_000


def execute(name, folder, monkeypatch, **parameters):
    """Runs a notebook in a folder, with other parameters than its own; returns it with outputs."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: extra 'test'")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: extra 'test'")
    pytest.importorskip("skimage", reason="scikit-image is not installed: extra 'test'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    (at,) = (i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", []))
    source = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(source))
    # Commands of the package may not be installed where the checkout is run as it is.
    notebook.cells = [c for c in notebook.cells if not c.source.startswith("!")]
    client = nbclient.NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return notebook


def outputs_of(notebook, text):
    (cell,) = (cell for cell in code_cells(notebook) if text in cell.source)
    return cell.outputs


@pytest.mark.slow
def test_restoring_photographs(tmp_path, monkeypatch):
    import jax
    from PIL import Image

    from dmcnn_jax.inference.variables import initialize
    from dmcnn_jax.inference.weights import save_weights
    from dmcnn_jax.models import create_model

    config = {"name": "dmcnn", "features": 2}
    variables = initialize(create_model(config), jax.random.key(0))
    save_weights(tmp_path / "tiny.safetensors", variables, {"model": config, "quality": 10})
    notebook = execute("restore_photos", tmp_path, monkeypatch, MODEL="tiny.safetensors")
    restored = Image.open(tmp_path / "restored.png")
    assert restored.size == Image.open(tmp_path / "sample.jpg").size
    assert restored.mode == "RGB"
    shown = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 4
    assert "Verdict(bits=8" in outputs_of(notebook, "verify(PHOTO")[-1]["data"]["text/plain"]


@pytest.mark.slow
def test_training(tmp_path, monkeypatch):
    import jax
    from PIL import Image
    from skimage import data

    from dmcnn_jax.inference.model import load

    # One tile each, so that a validation is quick; there are as many as steps.
    (tmp_path / "images").mkdir()
    for i in range(6):
        crop = data.astronaut()[40 * i : 40 * i + 256, 40 * i : 40 * i + 256]
        Image.fromarray(crop).save(tmp_path / f"images/{i}.png")
    small = {"IMAGES": "images", "FEATURES": 2, "BATCH": 4, "STEPS": 6, "WORKDIR": "runs/test"}
    notebook = execute("train_on_colab", tmp_path, monkeypatch, **small)
    best, exported = load(tmp_path / "runs/test"), load(tmp_path / "dmcnn.safetensors")
    assert jax.tree.all(jax.tree.map(np.array_equal, best.variables, exported.variables))
    assert (tmp_path / "dmcnn.stablehlo").stat().st_size > 10_000
    curves = [o for o in outputs_of(notebook, "live_curves(") if "image/png" in o.get("data", {})]
    assert len(curves) == 1, "one picture, drawn again and again"
