"""Runs in this process: what they write, what stops them, and how they resume."""

import functools
import gc
import importlib.util
import io
import json
import resource
import signal
import subprocess
import sys
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from runs import load_config, read_log, write_images

from dmcnn_jax import jpeg
from dmcnn_jax.config import validation
from dmcnn_jax.data import feeds, luma_pairs
from dmcnn_jax.data import tiles as tiles_module
from dmcnn_jax.images import metrics
from dmcnn_jax.images.color import to_uint8
from dmcnn_jax.inference.model import Model as InferenceModel
from dmcnn_jax.inference.model import estimate, load
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.inference.variables import initialize
from dmcnn_jax.inference.weights import load_weights, save_weights
from dmcnn_jax.models import create_model
from dmcnn_jax.system import devices
from dmcnn_jax.training import optimizers
from dmcnn_jax.training.checkpoint_reading import read_checkpoint
from dmcnn_jax.training.checkpoints import complete_steps
from dmcnn_jax.training.loop import train
from dmcnn_jax.training.metric_writer import MetricWriter
from dmcnn_jax.training.step_metrics import StepMetrics
from dmcnn_jax.training.trainer import Trainer
from dmcnn_jax.training.validation import Validation


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Runs of one configuration compile the same programs."""
    fields = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in fields}
    for name, value in fields.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "images"
    write_images(folder)
    return folder


@pytest.fixture(scope="module")
def config(images):
    return load_config(**{"data.source": str(images)})


@pytest.fixture(scope="module")
def reference(config, tmp_path_factory):
    """The workdir of a run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("reference")
    train(config, workdir)
    return workdir


def changed(config, **fields):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config


def contents(workdir):
    """What two runs must have in common."""
    return {
        "log": read_log(workdir),
        "best": (workdir / "best.safetensors").read_bytes(),
        "last": (workdir / "last.safetensors").read_bytes(),
    }


def test_a_run_writes_what_it_says(config, reference):
    log = read_log(reference)
    validations = [r for r in log if "validation" in r]
    assert [r["step"] for r in validations] == [6, 12, 18, 24, 30, 36, 42, 48, 54]
    steps = [r for r in log if "loss" in r]
    assert [r["step"] for r in steps] == list(range(2, 55, 2))
    assert any(r["event"] == "reduced" for r in validations)
    assert steps[-1]["learning_rate"] < steps[0]["learning_rate"]
    best = min(validations, key=lambda r: r["validation"]["loss"])
    assert load_weights(reference / "best.safetensors")[1]["step"] == best["step"]
    about = load_weights(reference / "last.safetensors")[1]
    assert about["step"] == 54
    assert about["quality"] == 10
    assert json.loads((reference / "config.json").read_text())["train"]["log_every"] == 2
    assert list((reference / "tensorboard").iterdir())


def test_tensorboard_holds_scalars_and_pictures(reference):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    (path,) = (reference / "tensorboard").iterdir()
    content, values = path.read_bytes(), {}
    while content:
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        values |= {value.tag: value for value in event.summary.value}
        content = content[16 + length :]
    assert {"train/loss", "train/psnr", "train/learning_rate", "validation/psnr"} <= set(values)
    shown = values["validation/original_jpeg_restored"].image.encoded_image_string
    picture = np.asarray(Image.open(io.BytesIO(shown)).convert("L"))
    # Two photographs, each below a strip with labels.
    assert picture.shape == (2 * (18 + 32) + 8, 3 * 32 + 2 * 8)
    assert picture[:18, :32].min() < 128 < picture[:18].mean()


def test_a_run_that_is_over_stays_as_it_is(config, reference):
    before = contents(reference)
    train(config, reference)
    assert contents(reference) == before


@pytest.mark.parametrize("step", [7, 12, 30, 31])
def test_a_signal_saves_a_checkpoint_and_the_run_resumes_with_the_same_bits(
    config, reference, tmp_path, monkeypatch, capfd, step
):
    inputs = luma_pairs.TileFeed.inputs
    calls = iter(range(1, 1000))

    def stop(*args):
        if next(calls) == step:
            signal.raise_signal(signal.SIGTERM if step % 2 else signal.SIGINT)
        return inputs(*args)

    monkeypatch.setattr(luma_pairs.TileFeed, "inputs", stop)
    with pytest.raises(KeyboardInterrupt, match=f"stopped at step {step} with a checkpoint"):
        train(config, tmp_path)
    assert capfd.readouterr().err.count("stopping after this step") == 1
    assert read_log(tmp_path)[-1]["step"] <= step
    variables, about = load_weights(tmp_path / "last.safetensors")
    assert about["step"] == step and ("validation" in about) == (step % 6 == 0)
    trainer = Trainer(config)
    folder = tmp_path / "checkpoints" / str(step)
    _, state = read_checkpoint(folder, trainer.abstract_state())
    jax.tree.map(np.testing.assert_array_equal, variables, trainer.variables(state))
    train(config, tmp_path)
    assert contents(tmp_path) == contents(reference)


def test_what_was_logged_after_the_checkpoint_is_forgotten(
    config, reference, tmp_path, monkeypatch
):
    inputs = luma_pairs.TileFeed.inputs

    def fail(self, stage, stage_step):
        if stage_step == 11:
            raise MemoryError
        return inputs(self, stage, stage_step)

    monkeypatch.setattr(luma_pairs.TileFeed, "inputs", fail)
    with pytest.raises(MemoryError):
        train(config, tmp_path)
    monkeypatch.undo()
    assert read_log(tmp_path)[-1]["step"] == 10  # the newest checkpoint is of step 8
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 11, "lo')
    train(config, tmp_path)
    assert contents(tmp_path) == contents(reference)


@pytest.fixture
def stopped(config, tmp_path, monkeypatch):
    """The workdir of a run that was stopped at step 9."""
    inputs, calls = luma_pairs.TileFeed.inputs, iter(range(1, 1000))

    def stop(*args):
        if next(calls) == 9:
            signal.raise_signal(signal.SIGTERM)
        return inputs(*args)

    monkeypatch.setattr(luma_pairs.TileFeed, "inputs", stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path)
    monkeypatch.undo()
    return tmp_path


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"train__learning_rate": 2e-3}, "config.train.learning_rate was 0.001 and is 0.002"),
        ({"seed": 5, "quality": 20}, "config.quality was 10 and is 20; config.seed was 0 and is 5"),
        ({"model__features": 4}, "config.model.features was 8 and is 4"),
        ({"train__batch_sizes": (8,)}, r"config.train.batch_sizes was \[4, 2\] and is \[8, 8\]"),
        ({"data__validation_images": 1}, "config.data.validation_images was 2 and is 1"),
        ({"data__pipeline": "tf.data"}, "config.data.pipeline was 'device' and is 'tf.data'"),
        (
            {"train__stage_steps": (5, 3)},
            r"9 steps of its stage 1 are done, and \[5, 3\] would end",
        ),
    ],
)
def test_another_configuration_is_refused_with_the_difference(config, stopped, fields, said):
    with pytest.raises(ValueError, match=f"begun with another configuration: {said}"):
        train(changed(config, **fields), stopped)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("schedule__warmup_steps", -5),
        ("schedule__min_lr_ratio", 2.0),
        ("schedule__rtol", -1.0),
        ("schedule__rtol", 0.0),
        ("schedule__rtol", 1.5),
        ("train__momentum", 7.0),
        ("train__clip_norm", -1.0),
        ("train__weight_decay", -1.0),
        ("evaluate__luma", "foo"),
        ("data__tile", 1024),
    ],
)
def test_values_that_make_no_sense_are_refused_before_training(config, tmp_path, field, value):
    name = f"config.{field.replace('__', '.')}"
    with pytest.raises(ValueError, match=f"{name} is {value!r}; expected "):
        train(changed(config, **{field: value}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_images_are_refused(config, stopped, tmp_path):
    write_images(tmp_path / "more", count=9)
    with pytest.raises(ValueError, match="the training images are not those"):
        train(changed(config, data__source=str(tmp_path / "more")), stopped)


def test_longer_runs_and_other_evaluation_are_not_refused(config, stopped, images, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(images)
    other = changed(
        config,
        data__source=str(moved),
        evaluate__images="elsewhere",
        train__stage_steps=(10, 3),
        train__log_every=1,
        name="other",
    )
    train(other, stopped)
    assert read_log(stopped)[-1]["step"] == 13
    train(changed(other, train__stage_steps=(10, 5)), stopped)
    assert read_log(stopped)[-1]["step"] == 15


@pytest.mark.parametrize(("step", "advice"), [(10, ", from --config.init_from=DIR"), (4, "")])
def test_a_loss_that_is_not_finite_names_the_step_and_the_last_good_checkpoint(
    config, tmp_path, monkeypatch, step, advice
):
    train_step = Trainer.step

    def spoil(self, state, inputs, rate, patch):
        # As an explosion would: weights that are no numbers, from a step on.
        state, scalars = train_step(self, state, inputs, rate, patch)
        if int(state.step) == step:
            scalars = {**scalars, "loss": jnp.float32(np.nan)}
        return state, scalars

    monkeypatch.setattr(Trainer, "step", spoil)
    # Only a run that has validated has weights to start from.
    last = f"that of step 8 in '{tmp_path}'" if advice else "none yet"
    with pytest.raises(FloatingPointError) as raised:
        train(changed(config, train__log_every=6), tmp_path)
    assert str(raised.value) == (
        f"the loss is nan at step {step}; the last good checkpoint is {last}; begin in another "
        "workdir with a lower config.train.learning_rate, or with config.train.clip_norm"
        + advice.replace("DIR", str(tmp_path))
    )
    assert complete_steps(tmp_path)[:1] == ([8] if advice else [])


def test_a_full_disk_is_one_clear_error_and_the_checkpoint_before_is_good(
    config, reference, tmp_path, monkeypatch
):
    inputs, limits = luma_pairs.TileFeed.inputs, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, stage, stage_step):
        # Files can't grow any more: to a program that is a full disk but for the error's number.
        # The checkpoint of step 6 may still be in the writing.
        if (stage, stage_step) == (0, 7):
            for name in ("log.jsonl", "last.safetensors"):
                assert (tmp_path / name).stat().st_size > 600
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
        return inputs(self, stage, stage_step)

    monkeypatch.setattr(luma_pairs.TileFeed, "inputs", fill)
    try:
        with pytest.raises(OSError, match=r"(File too large|can't be written).*that of step [46]"):
            train(config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.undo()
    # Threads of the run that failed are still writing; a command's end would have ended them.
    before = None
    while before != (before := sorted(map(str, tmp_path.rglob("*")))):
        time.sleep(0.5)
    train(config, tmp_path)
    assert contents(tmp_path) == contents(reference)


def test_weights_that_cannot_be_written_are_one_clear_error(config, tmp_path):
    (tmp_path / "last.safetensors").mkdir()
    with pytest.raises(
        OSError, match=r"last.safetensors' can't be written \(Is a directory\); the last good .*"
    ):
        train(config, tmp_path)
    (tmp_path / "last.safetensors").rmdir()
    train(changed(config, train__stage_steps=(7, 2)), tmp_path)


def test_weights_to_start_from(config, reference, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.init_from names weights to start from"):
        train(changed(config, init_from="runs/nowhere"), tmp_path)
    with pytest.raises(ValueError, match="don't fit the model DnCNN"):
        train(changed(config, init_from=str(reference), model__features=4), tmp_path)
    state = Trainer(changed(config, init_from=str(reference))).init_state()
    loaded, _ = load_weights(reference / "best.safetensors")
    jax.tree.map(np.testing.assert_array_equal, state.params, loaded["params"])
    jax.tree.map(np.testing.assert_array_equal, state.average, loaded["params"])
    # A step gives its inputs' memory away, and none can be given away twice.
    leaves = [leaf.addressable_data(0) for leaf in jax.tree.leaves(state)]
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    assert jax.tree.leaves(state.stats)


@pytest.mark.slow
def test_a_wider_network_starts_as_the_narrow_one_and_uses_all_its_channels(config, tmp_path):
    narrow = Trainer(dmcnn(config, features=2, dct_features=3))
    path = tmp_path / "narrow.safetensors"
    # Slopes, biases and last layers that differ from what every network starts with.
    rng = np.random.default_rng(1)
    variables = {
        "params": jax.tree.map(
            lambda p: np.float32(p + 0.1 * rng.normal(size=p.shape)), narrow.init_state().params
        )
    }
    save_weights(path, variables, {"model": {"name": "dmcnn"}})
    wide = Trainer(dmcnn(config, features=4, dct_features=8, init_from=str(path)))
    params = wide.init_state().params
    k = jax.random.randint(jax.random.key(0), (1, 3, 4, 64), -3, 4)
    table = jnp.asarray(jpeg.quality_table(20))[None]
    expected = jax.jit(narrow.module.apply)(variables, k, table)["image"]

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params):
        image = wide.module.apply({"params": params}, k, table)["image"]
        return jnp.square(image).sum(), image

    (_, image), gradients = run(params)
    np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-5)
    # What leads from new channels to the answer is zero, and is learned.
    assert not params["g"]["conv15"]["kernel"][:, :, 2:].any()
    assert np.asarray(gradients["g"]["conv15"]["kernel"])[:, :, 2:].all()
    assert params["g"]["conv14"]["kernel"][..., 2:].all()
    with pytest.raises(ValueError, match="don't fit the model DMCNN"):
        Trainer(dmcnn(config, features=1, init_from=str(path))).init_state()


def dmcnn(config, init_from="", **fields):
    """The configuration with a DMCNN of such fields."""
    config = changed(config, init_from=init_from)
    with config.unlocked():
        config.model = {"name": "dmcnn"} | fields
    return config


@pytest.mark.slow
def test_a_network_conditioned_on_the_table_starts_from_one_that_is_not(config):
    started = changed(config, init_from="dmcnn-small-qf20")
    with started.unlocked():
        started.model = {"name": "dmcnn", "features": 24, "condition_on_table": True}
    trainer = Trainer(started)
    state, source = trainer.init_state(), load("dmcnn-small-qf20")
    k = jax.random.randint(jax.random.key(0), (1, 3, 4, 64), -3, 4)
    table = jnp.asarray(jpeg.quality_table(20))[None]
    expected = jax.jit(source.module.apply)(source.variables, k, table)["image"]

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params):
        image = trainer.module.apply({"params": params}, k, table)["image"]
        return image.sum(), image

    (_, found), gradients = run(state.params)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # The table has no influence yet, but will: a gradient reaches its layers.
    assert np.any(gradients["g"]["table_dense4"]["kernel"])
    assert "table_dense4" not in source.variables["params"]["g"]


def test_tiles_on_the_device_or_sent_make_the_same_batch(config):
    mesh, key = devices.make_mesh(), jax.random.key(0)
    batches = []
    for size in (2**30, 0):
        chosen = changed(config, data__device_bytes=size)
        inputs = feeds.open_data(chosen, mesh)[0].inputs(1, 5)
        assert ("indices" in inputs) == (size > 0)
        batches.append(feeds.make_batch(inputs, key, 24, chosen, devices.batched(mesh)))
    jax.tree.map(np.testing.assert_array_equal, *batches)


def test_named_validation_images_are_used_whole(config, images, tmp_path):
    write_images(tmp_path / "validation", count=3, side=48)
    named = changed(config, data__validation=str(tmp_path / "validation"))
    feed, tiles = feeds.open_data(named, devices.make_mesh())
    assert len(tiles.names) == 3
    assert "8 images" in str(feed)
    assert feeds.open_validation(named).fingerprint == tiles.fingerprint
    aside = feeds.open_validation(config)
    assert aside.fingerprint == feeds.open_data(config, devices.make_mesh())[1].fingerprint


@pytest.mark.parametrize("count", [3, 8, 11])
def test_validation_measures_what_inference_gives(config, rng, count):
    pixels = rng.integers(0, 256, (count, 32, 32), dtype=np.uint8)
    names = tuple(map(str, range(count)))
    images = np.maximum(np.arange(count, dtype=np.int32) - 1, 0)  # two of the first photograph
    tiles = tiles_module.Tiles(pixels, np.arange(count), images, names)
    module = create_model(config.model)
    variables = initialize(module, jax.random.key(0))
    validation = Validation(tiles, changed(config, quality=30), devices.make_mesh())
    result, pictures = validation(module, variables)
    table = jpeg.quality_table(30)
    model = InferenceModel(module, variables)
    psnrs, jpegs, losses = [], [], []
    for i, original in enumerate(pixels):
        k = jpeg.encode(original, table)
        plane = restore_plane(model, np.asarray(k), table)
        psnrs.append(metrics.psnr(original, to_uint8(plane)))
        jpegs.append(metrics.psnr(original, np.asarray(jpeg.decode(k, table))))
        estimates = estimate(module, variables, k[None], jnp.asarray(table)[None])
        losses.append(module.loss(estimates, jnp.asarray(original[None, ..., None]) / 255))
        if i in (0, 2, 3, 4):  # one of each photograph, at most four
            shown = [original, jpeg.decode(k, table), to_uint8(plane)]
            np.testing.assert_array_equal(pictures[max(0, i - 1)], np.concatenate(shown, axis=1))
    assert len(pictures) == min(4, count - 1)
    assert result["psnr"] == pytest.approx(np.mean(psnrs), abs=1e-6)
    assert validation.jpeg_psnr == pytest.approx(np.mean(jpegs))
    assert result["gain"] == pytest.approx(np.mean(psnrs) - np.mean(jpegs), abs=1e-6)
    assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def finite_records(path):
    """The records of a log; raises for Infinity and NaN, which are no JSON."""

    def refuse(name):
        raise ValueError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_a_black_validation_tile_leaves_figures_finite_and_the_best_weights_free_to_change(
    config, tmp_path
):
    """JPEG keeps black of full-range luma exactly: its PSNR is infinite, and so was their mean."""
    write_images(tmp_path / "validation", count=2, side=48)
    Image.new("RGB", (48, 48)).save(tmp_path / "validation" / "black.png")
    black = changed(
        config,
        data__validation=str(tmp_path / "validation"),
        data__luma="full",
        model__batch_norm=False,
        train__ema_decay=0.0,
        train__stage_steps=(12, 6),
    )
    train(black, tmp_path / "run")
    records = finite_records(tmp_path / "run" / "log.jsonl")
    validations = [r for r in records if "validation" in r]
    assert len(validations) == 3
    best = min(validations, key=lambda r: r["validation"]["loss"])
    assert best != validations[0]
    about = load_weights(tmp_path / "run" / "best.safetensors")[1]
    assert about["step"] == best["step"]
    assert about["validation"] == best["validation"]


def test_a_tile_without_error_counts_as_one_with_an_error_of_one(config):
    pixels = np.zeros((2, 32, 32), np.uint8)
    tiles = tiles_module.Tiles(pixels, np.arange(2), np.arange(2, dtype=np.int32), ("a", "b"))
    validation = Validation(tiles, config, devices.make_mesh())
    assert validation.jpeg_psnr == pytest.approx(10 * np.log10(255**2 * 32 * 32))


def test_training_on_black_images_logs_finite_figures(config, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(8):
        Image.new("RGB", (64, 64)).save(tmp_path / "images" / f"{i}.png")
    fields = {"data__source": str(tmp_path / "images"), "data__luma": "full"}
    train(changed(config, train__stage_steps=(4, 2), **fields), tmp_path / "run")
    steps = [r for r in finite_records(tmp_path / "run" / "log.jsonl") if "loss" in r]
    assert steps[0]["jpeg_psnr"] == pytest.approx(10 * np.log10(255**2 * 4 * 16**2))


def test_means_of_steps_are_taken_once():
    metrics = StepMetrics()
    for loss, psnr in ((1.0, 30.0), (3.0, np.inf)):
        metrics.add({"loss": jnp.float32(loss), "psnr": jnp.float32(psnr)})
    limit = 10 * np.log10(255**2 * 100)
    assert metrics.means(100) == pytest.approx({"loss": 2.0, "psnr": (30 + limit) / 2})
    assert metrics.means(100) == {}


def test_a_record_that_is_not_finite_is_refused_and_not_written(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write(1, {"loss": 0.5})
    for record in ({"loss": float("nan")}, {"validation": {"psnr": float("inf")}}):
        with pytest.raises(FloatingPointError, match=r"record of step 2 .*expected finite"):
            writer.write(2, record)
    writer.close()
    assert finite_records(tmp_path / "log.jsonl") == [{"step": 1, "loss": 0.5}]


def test_tensorboard_files_are_written_without_pytorch(tmp_path):
    """Importing it would take most of a short run's start."""
    if not importlib.util.find_spec("torch"):
        pytest.skip("PyTorch is not installed: extra 'export'")
    code = f"""
import importlib.util, sys
from pathlib import Path
from dmcnn_jax.training.metric_writer import MetricWriter
writer = MetricWriter(Path({str(tmp_path)!r}), 0)
writer.write(1, {{"loss": 0.5}})
writer.close()
print("torch" in sys.modules, importlib.util.find_spec("torch") is not None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False True\n" and done.returncode == 0, done.stderr
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_trainer_is_freed_and_an_equal_one_compiles_no_second_step(config, monkeypatch):
    make_batch, traces = feeds.make_batch, []

    def count(*args):
        traces.append(args)
        return make_batch(*args)

    monkeypatch.setattr(feeds, "make_batch", count)
    # Another seed than other tests have, whose step may be compiled already.
    mine = changed(config, seed=4711)
    trainer = Trainer(mine)
    state = trainer.init_state()
    inputs = feeds.open_data(mine, trainer.mesh)[0].inputs(0, 0)
    _, first = trainer.step(state, inputs, np.float32(1e-3), 16)
    assert len(traces) == 1
    alive = weakref.ref(trainer)
    del trainer, state
    gc.collect()
    assert alive() is None
    # What the step doesn't depend on may differ.
    again = Trainer(changed(mine, name="again", train__stage_steps=(7, 7)))
    _, second = again.step(again.init_state(), inputs, np.float32(1e-3), 16)
    assert len(traces) == 1
    assert float(first["loss"]) == float(second["loss"])
    other = Trainer(changed(mine, train__ema_decay=0.5))
    other.step(other.init_state(), inputs, np.float32(1e-3), 16)
    assert len(traces) == 2


def first_gradients(config):
    """A trainer, its state, the inputs of its first step, and the loss and gradient of that."""
    trainer = Trainer(config)
    state = trainer.init_state()
    feed, _ = feeds.open_data(config, trainer.mesh)
    inputs = feed.inputs(0, 0)
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    batch = feeds.make_batch(inputs, key, 16, config, devices.batched(trainer.mesh))
    (loss, _), grads = jax.device_get(jax.jit(trainer.gradients)(state, batch))
    return trainer, state, inputs, loss, grads


def test_a_step_is_adam_and_a_moving_average(config, images):
    """Against Optax' own Adam, given the same gradients."""
    trainer, state, inputs, loss, grads = first_gradients(config)
    adam = optax.adam(0.01)
    updates, _ = adam.update(grads, adam.init(state.params))
    expected = jax.device_get(optax.apply_updates(state.params, updates))
    first = jax.device_get(state.params)
    state, scalars = trainer.step(state, inputs, np.float32(0.01), 16)
    # Compiled as a whole, sums are taken in another order, and Adam divides by gradients near 0.
    for new, right in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(new, right, atol=2e-4)
    assert float(scalars["loss"]) == pytest.approx(float(loss), rel=1e-5)
    # The first step keeps a tenth of what the average was.
    jax.tree.map(
        lambda average, old, new: np.testing.assert_allclose(
            average, 0.1 * old + 0.9 * new, atol=1e-6
        ),
        state.average,
        first,
        jax.device_get(state.params),
    )


def test_muon_makes_kernels_steps_orthogonal(config, images):
    """Against NumPy's singular vectors of the gradient; other parameters follow Nadam."""
    config = changed(config, train__optimizer="muon")
    trainer, state, inputs, _, grads = first_gradients(config)
    first = jax.device_get(state.params)
    state, _ = trainer.step(state, inputs, np.float32(1e-2), 16)
    steps = jax.tree.map(lambda old, new: (old - new) / 1e-2, first, jax.device_get(state.params))
    kernel, step = (tree["conv2"]["kernel"] for tree in (grads, steps))
    kernel, step = (x.reshape(-1, x.shape[-1]) for x in (kernel, step))
    u, _, v = np.linalg.svd(kernel.astype(np.float64), full_matrices=False)
    cosine = np.sum(step * (u @ v)) / np.linalg.norm(step) / np.linalg.norm(u @ v)
    assert cosine > 0.95
    assert np.sqrt(np.mean(step**2)) == pytest.approx(0.2, rel=0.25)
    bias, step = (tree["conv1"]["bias"] for tree in (grads, steps))
    clear = np.abs(bias) > 1e-6
    # Nesterov's look ahead: 0.9 times the next mean, 0.1 g / (1 - 0.9²), and the gradient.
    nadam = 1 + 0.9 * 0.1 / (1 - 0.9**2)
    np.testing.assert_allclose(step[clear], nadam * np.sign(bias[clear]), atol=0.05)


@pytest.mark.slow
def test_lbfgs_goes_down_on_its_one_batch(config, tmp_path):
    changes = {"optimizer": "lbfgs", "fixed_batch": True, "learning_rate": 1.0, "log_every": 1}
    config = changed(config, **{f"train__{k}": v for k, v in changes.items()})
    config.schedule.name, config.schedule.min_lr_ratio = "cosine", 1.0
    config.train.patch_sizes, config.train.stage_steps = (16,), (6,)
    config.train.batch_sizes = config.train.batch_sizes[:1]
    train(config, tmp_path)
    losses = [row["loss"] for row in read_log(tmp_path) if "loss" in row]
    assert len(losses) == 6 and np.all(np.diff(losses) < 0)
    with pytest.raises(ValueError, match=r"config.train.fixed_batch is False; expected True"):
        train(changed(config, train__fixed_batch=False), tmp_path / "other")


def test_a_batch_that_cannot_be_split_is_refused():
    mesh = devices.make_mesh()
    devices.check_batch(mesh.size * 3, mesh)

    class Eight:
        size = 8

    with pytest.raises(ValueError, match=r"a batch of 20 can't be split over 8 .* such as 16"):
        devices.check_batch(20, Eight())


def test_a_profile_is_written(config, tmp_path):
    train(changed(config, train__stage_steps=(12, 6)), tmp_path, profile=True)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_the_step_and_restoring_lower_for_tpus(config):
    """Without a TPU: that its compiler gets a program that it is able to read."""
    network = changed(config)
    network.model = type(network.model)({"name": "dmcnn", "features": 4}, type_safe=False)
    trainer = Trainer(network)
    batch, patch = 4, 16
    inputs = {
        "tiles": jax.ShapeDtypeStruct((10, 32, 32), jnp.uint8),
        "indices": jax.ShapeDtypeStruct((batch,), jnp.int32),
        "qualities": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), trainer.abstract_state())

    def step(state, inputs, rate):
        return trainer.step(state, inputs, rate, patch)

    rate = jax.ShapeDtypeStruct((), jnp.float32)
    exported = jax.export.export(jax.jit(step), platforms=["tpu"])(state, inputs, rate)
    assert exported.platforms == ("tpu",)
    assert "stablehlo.convolution" in exported.mlir_module()

    model = InferenceModel(trainer.module, {})
    coefficients = jax.ShapeDtypeStruct((1, 6, 8, 64), jnp.int32)
    table = jax.ShapeDtypeStruct((1, 8, 8), jnp.int32)
    variables = {"params": state.params}
    exported = jax.export.export(jax.jit(model.apply), platforms=["tpu"])(
        variables, coefficients, table
    )
    assert exported.platforms == ("tpu",)
    assert exported.out_avals[0].shape == (1, 48, 64)


def test_weights_of_a_run_are_loaded_back(tmp_path, config):
    module = create_model(config.model)
    variables = initialize(module, jax.random.key(0))
    save_weights(tmp_path / "best.safetensors", variables, {"model": config.model.to_dict()})
    loaded, _ = load_weights(tmp_path / "best.safetensors")
    jax.tree.map(np.testing.assert_array_equal, loaded, jax.device_get(variables))


def test_every_optimizer_is_a_value_of_the_setting():
    assert set(optimizers.OPTIMIZERS) == set(validation.OPTIMIZERS)
