"""Runs so small that they take seconds: images, configurations, and the real command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CHECKOUT = Path(__file__).parents[1]

# Batch normalisation, so that there are statistics to checkpoint as well; two stages, and a
# learning rate that is reduced soon.
CONFIG = """
from ml_collections import ConfigDict
from dmcnn_jax.config import default_config

def get_config():
    config = default_config()
    config.name = "tiny"
    config.quality = 10
    config.model = ConfigDict({"name": "dncnn", "depth": 3, "features": 8}, type_safe=False)
    config.data.tile = 32
    config.data.validation_images = 2
    config.train.patch_sizes = (16, 24)
    config.train.batch_sizes = (4, 2)
    config.train.stage_steps = (30, 24)
    config.train.validate_every = 6
    config.train.checkpoint_every = 4
    config.train.log_every = 2
    config.schedule.patience = 1
    config.schedule.rtol = 0.5
    config.schedule.reductions = 9
    return config
"""


def write_images(folder, count=8, side=64):
    """Smooth pictures, with some noise: PNG files."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    y, x = np.mgrid[:side, :side]
    for i in range(count):
        a, b, c = rng.uniform(2, 12, 3)
        waves = 60 * np.sin(x / a) * np.cos(y / b) + 40 * np.sin((x + y) / c)
        rgb = waves[..., None] + rng.normal(128, 4, (side, side, 3))
        Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")


def load_config(**fields):
    """The configuration, with some fields changed."""
    names = {}
    exec(CONFIG, names)
    config = names["get_config"]()
    config.update_from_flattened_dict(fields)
    return config


def command(folder: Path, workdir: Path, *flags: str) -> list[str]:
    """The command that trains; the configuration is written to `folder`."""
    path = folder / "tiny.py"
    path.write_text(CONFIG)
    return [
        *(sys.executable, "-m", "dmcnn_jax.main", "--config", str(path)),
        *("--workdir", str(workdir), *flags),
    ]


def environment(cache: Path, **more: str) -> dict[str, str]:
    """A CPU, and what was compiled once is not compiled again."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(CHECKOUT),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **more,
    }


def start(arguments: list[str], env: dict[str, str]) -> subprocess.Popen:
    """Starts a command whose output is kept."""
    return subprocess.Popen(
        arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def read_log(workdir: Path) -> list[dict]:
    """The lines of a log that are complete, without what is measured by the clock."""
    path = workdir / "log.jsonl"
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        record.pop("pixels_per_second", None)
        records.append(record)
    return records
