"""Settings and pictures that tests share."""

import os
import signal
import subprocess
import sys
import tempfile

# Before anything imports JAX: tests say what must hold on a CPU, whatever the machine has. Setting
# JAX_PLATFORMS runs them elsewhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Before anything imports NumPy. There is a test process for each core; threads that share products
# of small matrices wait for each other at full load, and tests of earlier saves took four times
# as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch's, and the ONNX runtime's
# Tests write nothing to the user's folders.
os.environ["DMCNN_JAX_CACHE"] = ""

from pathlib import Path

import numpy as np
import pytest


def pytest_configure(config):
    # What one test has compiled, no other compiles again, in none of the processes.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        config.compiled = tempfile.TemporaryDirectory(prefix="dmcnn-jax-compiled-")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = config.compiled.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    # A shell that starts a job in the background has it ignore interrupts, and so would the tests'
    # own processes, some of which are interrupted on purpose.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A plain run leaves the slow tests out; -m has the last word, and so has naming a test.
    names_a_test = any("::" in argument for argument in config.args)
    if not config.option.markexpr and not names_a_test:
        config.option.markexpr = "not slow"


def pytest_unconfigure(config):
    if hasattr(config, "compiled"):
        config.compiled.cleanup()


CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def cache() -> Path:
    """The folder of compiled programs, for trainings in processes of their own.

    Most train `runs.CONFIG`: a start compiles for as long as all else that it does takes.
    """
    return Path(os.environ["JAX_COMPILATION_CACHE_DIR"])


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """What a wheel of the checkout holds, in a folder of its own."""
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    build = ("build", "--build-base", folder / "build", "--build-lib", folder / "lib")
    subprocess.run([sys.executable, "setup.py", "-q", *build], cwd=CHECKOUT, check=True)
    return folder / "lib"


SHARED_DATA = CHECKOUT.parent / "shared" / "data"


def _images(folder, pattern):
    paths = sorted((SHARED_DATA / folder).glob(pattern))
    if not paths:
        pytest.skip(f"no {pattern} in ../shared/data/{folder} beside the checkout")
    return paths


@pytest.fixture(scope="session")
def live1() -> list[Path]:
    """The 29 reference images of LIVE1, colour PNG files, sorted. For evaluation only."""
    return _images("live1", "*.png")


@pytest.fixture(scope="session")
def train_images() -> list[Path]:
    """The 300 train and val photographs of BSDS500, colour JPEG files, sorted."""
    return _images("train/bsds500", "*.jpg")


@pytest.fixture(scope="session")
def dncnn3(tmp_path_factory) -> Path:
    """The weights that DnCNN-3's authors published, imported: a weights file."""
    from dmcnn_jax.inference.weights import save_weights
    from dmcnn_jax.models.baselines.matconvnet import read_dncnn

    published = SHARED_DATA / "peers" / "dncnn3.mat"
    if not published.exists():
        pytest.skip("no ../shared/data/peers/dncnn3.mat beside the checkout")
    path = tmp_path_factory.mktemp("peers") / "dncnn3.safetensors"
    variables, model = read_dncnn(published)
    save_weights(path, variables, {"model": model})
    return path


@pytest.fixture(scope="session")
def photographs() -> dict[str, np.ndarray]:
    """Photographs packaged with scikit-image as studio-range Y: name to uint8 ``[H, W]``.

    All there are without a network connection; sides from 300 to 512, not all multiples of 8.
    """
    from skimage import data

    from dmcnn_jax.images import color

    pictures = {
        name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "camera")
    }
    return {
        name: color.rgb_to_y(picture, "studio") if picture.ndim == 3 else picture
        for name, picture in pictures.items()
    }


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator, seeded alike for each test."""
    return np.random.default_rng(0)
