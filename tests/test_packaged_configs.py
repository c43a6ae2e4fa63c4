"""Configurations that come with the package: found by name, and in the wheel."""

import os
import subprocess
import sys

import pytest
from runs import CHECKOUT

pytest.importorskip("ml_collections", reason="ml_collections is not installed: extra 'train'")

from dmcnn_jax.config.files import find_config, load_config


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("qf20", "qf20.py"),
        ("qf20.py", "qf20.py"),
        ("configs/qf20.py", "qf20.py"),
        ("arcnn:cpu", "arcnn.py:cpu"),
        ("ablations/full:time", "ablations/full.py:time"),
    ],
)
def test_a_name_is_enough(name, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == str(CHECKOUT / "configs" / file)


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = (CHECKOUT / "configs" / "qf20.py").read_text().replace('"qf20"', '"mine"')
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "qf20.py").write_text(mine)
    assert load_config("configs/qf20.py").name == "mine"
    assert load_config("qf20").name == "qf20"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("configs/quikstart.py", "configs/quickstart.py"),
        ("quikstart", "configs/quickstart.py"),
        ("ablations/ful", "configs/ablations/full.py"),
        ("configs/fulll.py:cpu", "configs/qf20.py"),
    ],
)
def test_a_mistake_names_the_nearest(name, nearest):
    with pytest.raises(FileNotFoundError, match="there is no configuration") as caught:
        find_config(name)
    assert nearest in str(caught.value)


def test_the_wheel_has_them(installed):
    def scripts(folder):
        return {path.relative_to(folder) for path in folder.rglob("*.py")}

    assert scripts(installed / "dmcnn_jax" / "configs") == scripts(CHECKOUT / "configs") != set()


@pytest.mark.slow
def test_an_installed_package_trains_without_a_clone(installed, tmp_path):
    pytest.importorskip("skimage", reason="scikit-image is not installed: extra 'train'")
    fields = {
        "model.features": 4,
        "data.validation_images": 1,
        "schedule.warmup_steps": 1,
        "train.patch_sizes": "(16,)",
        "train.batch_sizes": "(2,)",
        "train.stage_steps": "(2,)",
        "train.validate_every": 2,
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dmcnn_jax.main", "--config=quickstart", "--workdir=run"),
            *(f"--config.{field}={value}" for field, value in fields.items()),
        ],
        env=os.environ | {"PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "best.safetensors").is_file()
