"""What works where the heavy packages are not installed: on a GPU host, on a laptop."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import runs
from commands import command
from PIL import Image

CHECKOUT = Path(__file__).parents[1]
DATA = ("tensorflow", "tensorflow_datasets")
TRAINING = (*DATA, "ml_collections", "absl", "optax", "orbax", "skimage")


def run_without(packages, tmp_path, *arguments):
    """Runs Python where importing some packages fails as if they were not installed."""
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
        import sys

        class Absent:
            def find_spec(self, name, path=None, target=None):
                # Flax imports optax and Orbax itself: only what is asked from elsewhere fails.
                if name.split(".")[0] in {packages!r}:
                    caller = sys._getframe(1)
                    while "importlib" in caller.f_code.co_filename:
                        caller = caller.f_back
                    if "site-packages" not in caller.f_code.co_filename:
                        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

        sys.meta_path.insert(0, Absent())
        """)
    )
    path = os.pathsep.join([str(tmp_path / "site"), str(CHECKOUT)])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def images(tmp_path):
    runs.write_images(tmp_path / "images")
    return tmp_path / "images"


@pytest.mark.slow
def test_packing_and_training_from_a_pack_without_tensorflow(images, tmp_path):
    packed = run_without(
        DATA, tmp_path, CHECKOUT / "tools" / "pack_images.py", images, "-o", "pack", "--tile", 32
    )
    assert packed.returncode == 0, packed.stderr
    (tmp_path / "config.py").write_text(runs.CONFIG.replace("(30, 24)", "(4, 2)"))
    trained = run_without(
        DATA,
        tmp_path,
        "-m",
        "dmcnn_jax.main",
        "--config=config.py",
        "--config.data.source=pack",
        "--workdir=run",
    )
    assert trained.returncode == 0, trained.stderr
    assert "gain" in trained.stdout
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_evaluating_without_anything_of_training(images, tmp_path):
    done = run_without(
        TRAINING,
        tmp_path,
        *command("dmcnn-evaluate")[1:],
        *("--weights", "dmcnn-small-qf10", "--images", images, "--quality", 10),
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "results.json").read_text())["per_image"]) == 8


def test_restoring_without_anything_of_training(images, tmp_path):
    Image.open(images / "0.png").save(tmp_path / "photo.jpg", quality=10)
    arguments = (*command("dmcnn-restore")[1:], "photo.jpg", "-o", "clean.png")
    done = run_without(TRAINING, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "clean.png").size == (64, 64)


def test_packages_are_really_absent(tmp_path):
    done = run_without(TRAINING, tmp_path, "-c", "import dmcnn_jax.config as c; c.default_config()")
    assert "No module named 'ml_collections'" in done.stderr
