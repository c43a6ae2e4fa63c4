"""The trainings that the documentation prints are run for a step, and then what needs a run.

A command keeps all that it prints except sizes: widths, patches, steps, images. Of trainings whose
program is the same, the first runs, since compiling takes most of the time; the others are parsed.
Without DMCNN_LONG=1, only `USUAL` ones run: each kind of training once, and not each network, which
test_baselines.py trains by its configuration.
"""

import re
import shlex
import shutil
import sys
from pathlib import Path

import lengths
import pytest
from PIL import Image
from test_docs import PAGES, ROOT
from test_printed_commands import (
    main_of,
    needs_run,
    patterns,
    picture,
    printed,
    save_photograph,
    shortening,
)

pytest.importorskip("absl", reason="absl-py is not installed: extra 'train'")
pytest.importorskip("optax", reason="optax is not installed: extra 'train'")

from absl.testing import flagsaver

from dmcnn_jax import main
from dmcnn_jax.config.files import load_config, set_fields
from dmcnn_jax.config.validation import flatten, validate_config

TRAINING = ["python", "-m", "dmcnn_jax.main"]

SHORT = {
    "data.tile": 32,
    "data.validation_images": 1,
    "train.patch_sizes": "(32,)",
    "train.batch_sizes": "(1,)",
    "train.stage_steps": "(1,)",
    "train.validate_every": 1,
    "train.checkpoint_every": 0,
    "schedule.warmup_steps": 0,
    "schedule.minutes": 0.01,
}
# Adam; Muon, with tables and full-range luma, from a run; the relative loss; SGD; L-BFGS.
USUAL = ("quickstart.py", "medium_any.py", "relative_loss=True", "arcnn.py")

# The run that stands for all that pages name.
RUN = "runs/quickstart"


def commands():
    """The commands that need a run, or make one, each once, in the order of the pages."""
    found = (c for page in PAGES for c in printed(page) if needs_run(c) and not patterns(c))
    return list(dict.fromkeys(found))


def is_training(command):
    words = shlex.split(command)
    return words[:3] == TRAINING and "--mode=evaluate" not in words


def trainings():
    """The trainings that are run, the first of each program: names of networks, and commands."""
    firsts = {}
    for command in filter(is_training, commands()):
        config = configuration(shortened(command))
        config.model.dtype, steps = "float32", config.train
        about = [config.model, config.data.luma, config.quality_range, steps.optimizer]
        key = str([flatten(part) if hasattr(part, "items") else part for part in about])
        firsts.setdefault(key, (config.model.name, command))
    usual = [first for first in firsts.values() if any(part in first[1] for part in USUAL)]
    return lengths.length(usual, list(firsts.values()))


def shortened(command):
    """The arguments of a command, made small."""
    arguments = shlex.split(command)[3:]
    config = configuration(arguments)
    narrow = {key: 4 for key in ("features", "dct_features") if key in config.model}
    fields = SHORT | {f"model.{key}": value for key, value in narrow.items()}
    if config.data.source == "packaged":
        fields["data.source"] = "FOLDER"
    if config.init_from:
        fields["init_from"] = RUN
    return replaced(arguments, fields)


def replaced(arguments, fields):
    """Arguments with other values of fields; a tuple that is given twice would be added to."""
    kept = [w for w in arguments if w.partition("=")[0].removeprefix("--config.") not in fields]
    return [*kept, *(f"--config.{field}={value}" for field, value in fields.items())]


def configuration(arguments):
    """The configuration that arguments of a training describe."""
    config = load_config(arguments[arguments.index("--config") + 1])
    set_fields(config, [w.removeprefix("--config.") for w in arguments if w[:9] == "--config."])
    return config


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A clone, a photograph, and folders of pictures, some of which are called packs."""
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs" / "training", tmp_path / "docs" / "training")
    save_photograph(tmp_path / "photo.jpg")
    for folder in (
        "FOLDER",
        "TEST_FOLDER",
        "LIVE1",
        *(f"packs/{name}" for name in ("train", "full", "mine")),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for number in (1, 2):
            Image.fromarray(picture(number)).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "packs" / "mine-full").symlink_to("mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train_or_evaluate(arguments):
    """Runs `python -m dmcnn_jax.main` in this process, whose flags are then as before."""
    with flagsaver.flagsaver(), pytest.MonkeyPatch.context() as patch:
        main.FLAGS.unparse_flags()
        patch.setattr(sys, "argv", ["main", *arguments])
        assert main.main(main.parse_flags(sys.argv)) == 0, arguments


@pytest.mark.parametrize("command", list(filter(is_training, commands())))
def test_printed_trainings_have_their_fields(command):
    config = configuration(shortened(command))
    validate_config(config)
    assert config.train.stage_steps == (1,)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({name for name, _ in trainings()} - {"dmcnn"}))
def test_printed_trainings_of_other_networks_run(name, workspace):
    for command in (command for network, command in trainings() if network == name):
        train_or_evaluate(shortened(command))
    assert sorted(workspace.glob("runs/*/best.safetensors"))


@pytest.mark.slow
def test_printed_trainings_run_and_what_needs_them(workspace, capfd):
    """DMCNN's, whose first run stands for all that pages name."""
    for command in (command for network, command in trainings() if network == "dmcnn"):
        train_or_evaluate(shortened(command))
    for command in commands():
        if is_training(command):
            continue
        words = shlex.split(command)
        if words[:3] == TRAINING:
            provide_runs(f"{command} runs/{configuration(words[3:]).name}")
            train_or_evaluate(evaluation(command))
            continue
        provide_runs(command)
        function, arguments = main_of(words)
        status = function(arguments + shortening(command))
        assert not status, f"{command}: {capfd.readouterr().err}"


def evaluation(command):
    """The arguments of a command that evaluates, on small pictures."""
    return replaced(shlex.split(command)[3:], SHORT | {"data.source": "FOLDER"})


def provide_runs(command):
    """Copies the run to the names that a command prints, if those have no weights."""
    for name in re.findall(r"runs/[\w/-]+", command):
        if not Path(name, "best.safetensors").exists():
            shutil.copytree(RUN, name, dirs_exist_ok=True)
    for name in re.findall(r"OUT/[\w.-]+", command):
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy(Path(RUN) / "best.safetensors", name)
