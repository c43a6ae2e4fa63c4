"""Recipes of several phases: the shipped ones, and that they resume."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from runs import CHECKOUT, CONFIG, load_config, write_images

from dmcnn_jax.config.files import load_recipe
from dmcnn_jax.config.recipes import AveragePhase, PackOptions, TrainPhase, check_phases
from dmcnn_jax.config.validation import validate_config
from dmcnn_jax.data import images, luma_pairs
from dmcnn_jax.data.pack_sources import join_sources
from dmcnn_jax.inference.weights import find_weights, load_weights
from dmcnn_jax.models import create_model
from dmcnn_jax.training.recipe_runs import run_recipe

SHIPPED = sorted((CHECKOUT / "configs" / "shipped").glob("*.py"))


def test_every_bundled_model_has_a_recipe():
    bundled = {path.stem for path in (CHECKOUT / "dmcnn_jax" / "weights").glob("*.safetensors")}
    assert {path.stem.replace("_", "-") for path in SHIPPED} == bundled


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_makes_the_network_that_is_bundled(path):
    phases = load_recipe(str(path))
    configs = [phase.config for phase in phases if isinstance(phase, TrainPhase)]
    for config in configs:
        validate_config(config)
    about = load_weights(find_weights(path.stem.replace("_", "-")))[1]
    assert create_model(configs[-1].model.to_dict()) == create_model(about["model"])
    assert configs[-1].data.luma == about["luma"]
    assert list(configs[-1].quality_range) == list(about["quality_range"])
    assert configs[-1].quality == about["quality"]


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([], "the recipe has no phases"),
        ([TrainPhase("a", None), TrainPhase("a", None)], "two phases are named 'a'"),
        ([TrainPhase("a", None, start="b")], "'a' starts from 'b'; expected an earlier phase: it"),
        ([TrainPhase("a", None), AveragePhase("b", of=("a", "c"))], "'b' starts from 'c'.*: a$"),
    ],
)
def test_recipes_that_do_not_fit_together_are_refused(phases, message):
    with pytest.raises(ValueError, match=message):
        check_phases(phases)


def tiny(seed=0, **fields):
    """Returns a configuration of few steps, whose training ends on its steps."""
    fields = {k.replace("__", "."): v for k, v in fields.items()}
    steps = {"train.stage_steps": (4, 2), "train.validate_every": 3, "train.log_every": 6}
    return load_config(**{"seed": seed, "train.checkpoint_every": 0, **steps, **fields})


def tiny_phases(steps=(4, 2)):
    """Returns the phases of a recipe with a pack for each of two sizes, and an average."""
    return [
        TrainPhase("first", tiny(data__max_short_side=48)),
        TrainPhase("second", tiny(train__stage_steps=steps), start="first"),
        AveragePhase("mean", of=("first", "second")),
        TrainPhase("last", tiny(seed=1), start="mean"),
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "images"
    write_images(folder)
    return str(folder)


@pytest.fixture(scope="module")
def alone(source, tmp_path_factory):
    """The output folder of a recipe that nothing interrupted, and what it printed."""
    output, lines = tmp_path_factory.mktemp("alone") / "out", []
    run_recipe(tiny_phases(), source, output, name="tiny", write=lines.append)
    return output, lines


def weights(output):
    """Returns the content of all weights files by their paths in the output folder."""
    paths = sorted(output.glob("**/*.safetensors"))
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


def test_recipes_start_from_each_other_on_packs_of_their_own(alone):
    output, lines = alone
    assert [line.split(":")[0] for line in lines if line.startswith("phase")] == [
        "phase 1 of 4, first",
        "phase 2 of 4, second",
        "phase 3 of 4, mean",
        "phase 4 of 4, last",
    ]
    packs = {path.name for path in (output / "packs").iterdir()}
    assert packs == {"studio-32-48", "studio-32-512"}
    files = weights(output)
    assert files["best.safetensors"] == files["4-last/best.safetensors"]
    begun = json.loads((output / "2-second" / "config.json").read_text())
    assert begun["init_from"] == str(output / "1-first" / "best.safetensors")
    first, second, mean = (
        load_weights(output / name / "best.safetensors")[0]["params"]["conv1"]["kernel"]
        for name in ("1-first", "2-second", "3-mean")
    )
    np.testing.assert_allclose(mean, (first + second) / 2, atol=1e-7)
    assert np.any(first != second)


def test_a_phase_packs_copies_and_graphics(source, tmp_path):
    options = PackOptions((0.5, 0.8), copies=2, graphics=2, skies=1)
    phases = [TrainPhase("only", tiny(), pack=options)]
    run_recipe(phases, source, tmp_path / "out", name="tiny")
    (pack,) = (tmp_path / "out" / "packs").iterdir()
    about = json.loads((pack / "pack.json").read_text())
    photographs = images.open_images(source)
    names = [photographs.name(index) for index in range(len(photographs))]
    assert about["names"] == [*names, "text 0"]
    assert about["images"].count(len(about["names"]) - 1) == 3 * 4, "three drawings of 2 × 2 tiles"


def test_copies_that_would_not_differ_are_refused(source):
    with pytest.raises(ValueError, match="copies is 2 without scales"):
        join_sources(images.open_images(source), 32, copies=2)


@pytest.mark.parametrize("calls", [3, 9])
def test_an_interrupted_recipe_resumes_and_ends_with_the_same_weights(
    alone, source, tmp_path, monkeypatch, calls
):
    """Interrupted in the first phase, and in the second."""
    inputs, count = luma_pairs.TileFeed.inputs, iter(range(1, 1000))

    def interrupt(*args):
        if next(count) == calls:
            signal.raise_signal(signal.SIGTERM)
        return inputs(*args)

    output, lines = tmp_path / "out", []
    monkeypatch.setattr(luma_pairs.TileFeed, "inputs", interrupt)
    with pytest.raises(KeyboardInterrupt, match="the same command resumes from it"):
        run_recipe(tiny_phases(), source, output, name="tiny")
    monkeypatch.undo()
    assert not (output / "best.safetensors").exists()
    # Weights files name no folder; phases that are done are not begun again.
    run_recipe(tiny_phases(), source, output, name="tiny", write=lines.append)
    assert weights(output) == weights(alone[0])
    assert ("phase 1 of 4, first: done before" in lines) == (calls == 9)
    run_recipe(tiny_phases(), source, output, name="tiny", write=lines.append)
    assert sum("done before" in line for line in lines[-4:]) == 3


def test_a_changed_recipe_does_not_continue_from_other_weights(alone, source, tmp_path):
    import shutil

    output = tmp_path / "out"
    shutil.copytree(alone[0], output)
    (output / "1-first" / "best.safetensors").write_bytes(
        (output / "2-second" / "best.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match=r"phase 2 of 4, second: .*other weights.*remove"):
        run_recipe(tiny_phases(), source, output, name="tiny")
    with pytest.raises(ValueError, match=r"begun with the images of .*, not 'packaged'"):
        run_recipe(tiny_phases(), "packaged", output, name="tiny")


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    (tmp_path / "plain.py").write_text(CONFIG)
    for recipe, message in (
        (tmp_path / "plain.py", "has no get_phases()"),
        (tmp_path / "none.py", "there is no configuration"),
    ):
        done = subprocess.run(
            [
                *(sys.executable, CHECKOUT / "tools" / "train_recipe.py", recipe),
                *("--source", "packaged", "-o", tmp_path / "out"),
            ],
            env={"PYTHONPATH": str(CHECKOUT), "PATH": "", "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()
