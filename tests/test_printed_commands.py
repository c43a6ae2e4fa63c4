"""The commands that the documentation prints are run on small pictures, or listed with a reason."""

import fnmatch
import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_docs import PAGES, ROOT, console_scripts

# Patterns of commands that are not run, by the reason. test_docs.py checks what they name.
NOT_RUN = {
    "installs, or needs the network or a cloud": (
        "pip install *",
        "python* -m venv *",
        "tfds build *",
        "gcloud *",
        "ray *",
        "dmcnn-archive * s3://*",
    ),
    "needs a Docker daemon": ("docker *",),
    "needs a cluster, its shared folder, or several machines": (
        "srun *",
        "sbatch *",
        "dmcnn-archive * /shared/*",
        "*--coordinator=HOST0:*",
    ),
    "another project's program": ("exiftool *", "diff *", "tensorboard *"),
    "a check of this checkout, which .ci/run or another test makes": (
        "ruff *",
        "mypy *",
        "lint-imports",
        "python -m pytest*",
        "python -m sphinx *",
    ),
    "needs ImageNet": ("*=tfds:*",),
    "several devices or processes: test_distributed.py": (
        "XLA_FLAGS=*",
        "*--coordinator=127.0.0.1:*",
    ),
    "reads images by TensorFlow: test_pipeline.py": ("*--config.data.pipeline=tf.data",),
    "the network for photographs, a minute to compile: test_photo.py": (
        "python -m dmcnn_jax.main --config configs/photo.py *",
    ),
    "eighty layers, a minute to compile: test_baselines.py": (
        "python -m dmcnn_jax.main --config configs/memnet.py:*",
    ),
    "the network that its page adds: test_docs.py": (
        "python -m dmcnn_jax.main --config configs/plain.py *",
        "* runs/plain-cpu *",
        "*=runs/plain-cpu *",
    ),
    "several trainings: test_recipes.py, test_train_systems.py, test_gpu_session.py": (
        "python tools/train_recipe.py *",
        "python tools/train_systems.py *",
        "python tools/gpu_session.py *",
    ),
    "reads what PyTorch has trained: test_export.py": ("*finetuned.*",),
    "compares networks by their names, and checks these: test_compare.py": (
        "dmcnn-compare ARCNN=*",
    ),
    "adds weights to the package: test_release.py": ("python tools/release_weights.py *",),
    "needs the published weights of DnCNN-3": ("*DnCNN3.mat*", "*dncnn3.safetensors*"),
    "needs LIVE1 itself": ("python tools/checksums.py LIVE1 *",),
    "waits for requests, or sends them to it: test_serve.py": ("dmcnn-restore --serve*", "curl *"),
    "reads standard input; test_restore.py has it do so": ("dmcnn-restore - *",),
    "processes of an archive: test_archive.py": ("dmcnn-archive *",),
    "copies of pictures larger than those here: test_decoded_pictures.py": (
        "dmcnn-restore screenshot.png *",
        "dmcnn-restore downloads/ *",
    ),
    "half an hour; test_mutated.py and others run its parts": ("python tests/campaign.py*",),
    "minutes at its smallest: test_benchmark.py": ("python tools/benchmark *",),
    "minutes of pictures drawn by code": (
        "python tools/graphics.py",
        "python tools/earlier_saves.py *",
        "python tools/borders.py *",
        "python tools/recipe_sizes.py *",
        "python tools/pack_images.py *--graphics *",
    ),
    "needs a pack of such pictures": ("python tools/evaluate_photo.py *",),
    "exports that take PyTorch or a minute: test_export.py": (
        "python tools/export_params.py *.onnx",
        "python tools/export_params.py *.pt",
        "python tools/export_params.py *.stablehlo",
        "python tools/export_params.py * orbax",
    ),
}


def printed(page):
    """The commands in the fences of a page, without comments."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            command = " ".join(re.split(r"(?:^|\s)#\s", line)[0].split())
            if command:
                yield command


def needs_run(command):
    """Whether a command trains, or uses what a training has left: test_printed_trainings.py."""
    return bool(re.search(r"^python -m dmcnn_jax.main |[ =](runs|OUT)/", command))


def patterns(command):
    return [p for group in NOT_RUN.values() for p in group if fnmatch.fnmatchcase(command, p)]


def to_run(page):
    return [c for c in printed(page) if not patterns(c) and not needs_run(c)]


def main_of(words):
    """The function that a command calls, and the arguments that it calls it with."""
    if words[0] in (scripts := console_scripts()):
        return importlib.import_module(scripts[words[0]]).main, words[1:]
    if words[0] == "python" and re.fullmatch(r"tools/\w+\.py", words[1]):
        spec = importlib.util.spec_from_file_location(f"tool_{Path(words[1]).stem}", words[1])
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.main, words[2:]
    raise AssertionError(f"{shlex.join(words)}: run it here, or list it with a reason")


def test_each_reason_is_of_a_command_that_is_printed():
    commands = [command for page in PAGES for command in printed(page)]
    for group in NOT_RUN.values():
        for pattern in group:
            assert fnmatch.filter(commands, pattern), f"no page prints {pattern}"


def test_what_is_run_is_known(monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = [command for page in PAGES for command in to_run(page)]
    assert len(commands) > 40
    for command in commands:
        words = shlex.split(command)
        assert words[0] in console_scripts() or Path(words[1]).is_file(), command


def picture(seed, side=64):
    """A smooth picture, uint8 [side, side, 3]."""
    y, x = np.mgrid[:side, :side] / side
    a, b = seed + 3, seed + 4
    waves = [np.sin((a + c) * (x + c * y)) + np.cos(b * y - c * x) for c in range(3)]
    return np.uint8(np.clip(128 + 50 * np.stack(waves, axis=-1), 0, 255))


def save_photograph(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed=1)).save(path, quality=20)


def make_archive(folder):
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("1.jpg", "may/1.jpg"):
        save_photograph(folder / name)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """What the pages' reader has: a clone, photographs, folders of them."""
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs" / "training", tmp_path / "docs" / "training")
    for name in ("photo", "holiday/1", "may/1", "june/1", "photographs/1"):
        save_photograph(tmp_path / f"{name}.jpg")
    make_archive(tmp_path / "archive")
    with Image.open(tmp_path / "photo.jpg") as first:
        first.save(tmp_path / "photo.png")
        first.crop((5, 3, 64, 64)).save(tmp_path / "meme.jpg", quality=92)
    for folder in ("FOLDER", "LIVE1", "originals"):
        (tmp_path / folder).mkdir()
        for number in (1, 2):
            Image.fromarray(picture(number)).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "cleaned").mkdir()
    Image.fromarray(picture(1)).save(tmp_path / "cleaned" / "1.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if to_run(p)], ids=lambda page: page.name)
def test_printed_commands_run(page, workspace, capfd):
    """In the order of the page."""
    for command in to_run(page):
        main, arguments = main_of(shlex.split(command))
        if "--in-place" in arguments:  # ways to choose from, not one after the other
            make_archive(workspace / "archive")
        status = main(arguments + shortening(command))
        assert not status, f"{command}: {capfd.readouterr().err}"


def shortening(command):
    """Arguments that make a command small, and have it write a file that the page wrote before."""
    if "--images packaged" in command:
        return ["--images", "FOLDER"]
    if "pack_images.py" in command:
        return ["--tile", "32"]
    if re.match("dmcnn-restore (?!.*--(verify|in-place|undo))", command):
        return ["--overwrite"]
    return []
