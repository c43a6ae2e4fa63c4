"""Pairs from tf.data are what Pillow's files hold, in an order that follows from seed and step."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from runs import load_config, read_log, write_images

tf = pytest.importorskip("tensorflow", reason="pip install 'dmcnn-jax[data]'")
tfds = pytest.importorskip("tensorflow_datasets", reason="pip install 'dmcnn-jax[data]'")

from dmcnn_jax import jpeg  # noqa: E402
from dmcnn_jax.data import feeds, luma_pairs, tf_pipeline  # noqa: E402
from dmcnn_jax.data import images as images_module  # noqa: E402
from dmcnn_jax.data import tfds as tfds_module  # noqa: E402
from dmcnn_jax.images.color import rgb_to_y  # noqa: E402
from dmcnn_jax.system import devices  # noqa: E402
from dmcnn_jax.training.loop import train  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "images"
    write_images(folder, count=12)
    return folder


@pytest.fixture(scope="module")
def config(folder):
    return load_config(**{"data.source": str(folder), "data.pipeline": "tf.data"})


def open_feed(config, **fields):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(fields)
    return feeds.open_data(config, devices.make_mesh())[0]


def test_tables_that_tensorflow_cannot_write_are_refused(config):
    with pytest.raises(ValueError, match=r"config\.random_table_prob is 0\.5.*'device'"):
        open_feed(config, random_table_prob=0.5)


def pillow(original, quality, tmp_path):
    """What Pillow writes and reads, and the coefficients and table of its file."""
    import jpeglib

    path = tmp_path / "pillow.jpg"
    Image.fromarray(original).save(path, quality=quality)
    with Image.open(path) as image:
        pixels = np.asarray(image)
    file = jpeglib.read_dct(str(path))
    return pixels, file.Y.reshape(*file.Y.shape[:2], 64), file.qt[0]


@pytest.mark.parametrize("quality", [5, 10, 20, 35, 50, 75, 90, 95])
def test_pairs_are_pillows(photographs, rng, tmp_path, quality):
    originals = [p[8:120, 16:128] for p in photographs.values()]
    originals += [rng.integers(0, 256, (112, 112), dtype=np.uint8)]
    originals += [(rng.integers(0, 2, (112, 112)) * 255).astype(np.uint8)]
    for original in originals:
        pair = tf_pipeline.compress(tf.constant(original), tf.constant(quality))
        pixels, coefficients, table = pillow(original, quality, tmp_path)
        np.testing.assert_array_equal(pair["decoded"], pixels)
        np.testing.assert_array_equal(pair["table"], table)
        # As the step makes them of what tf.data sends.
        inputs = {name: value.numpy()[None] for name, value in pair.items()}
        batch = feeds.make_batch(inputs | {"original": original[None]}, None, 112, None, None)
        np.testing.assert_array_equal(batch["coefficients"][0], coefficients)
        # And as the other pipeline makes them of the same crop.
        other = luma_pairs.make_batch(original[None], jax.random.key(0), 112, (quality, quality))
        turned = np.asarray(other["original"][0])
        k, q = other["coefficients"][0], other["table"][0]
        pixels, coefficients, table = pillow(turned, quality, tmp_path)
        np.testing.assert_array_equal(k, coefficients)
        np.testing.assert_array_equal(q, table)
        np.testing.assert_array_equal(jpeg.decode(k, q), pixels)


def test_every_quality_has_its_table():
    flat = tf.zeros((8, 8), tf.uint8)
    for quality in range(1, 101):
        table = tf_pipeline.compress(flat, tf.constant(quality))["table"]
        np.testing.assert_array_equal(table, jpeg.quality_table(quality))


def test_both_pipelines_give_the_same_batch_of_the_same_crops(config):
    """A whole batch out of tf.data, and the other pipeline's on its originals."""
    inputs = open_feed(config, quality_range=(5, 95)).inputs(0, 3)
    batch = feeds.make_batch(inputs, None, 16, config, None)
    k = jpeg.encode(inputs["original"], inputs["table"])
    np.testing.assert_array_equal(batch["coefficients"], k)
    np.testing.assert_array_equal(jpeg.decode(k, inputs["table"]), inputs["decoded"])
    assert len({table.tobytes() for table in np.asarray(inputs["table"])}) > 1


def test_patches_are_crops_of_the_images_flipped_and_turned(folder, config):
    feed = open_feed(config)
    planes = [
        rgb_to_y(images_module.read_rgb(p), "studio") for p in images_module.list_images(folder)
    ]
    crops = {
        np.ascontiguousarray(window).tobytes()
        for plane in planes
        for rotation in range(4)
        for turned in (np.rot90(plane, rotation), np.rot90(plane[::-1], rotation))
        for window in np.lib.stride_tricks.sliding_window_view(turned, (16, 16)).reshape(-1, 16, 16)
    }
    for step in range(3):
        for original in np.asarray(feed.inputs(0, step)["original"]):
            assert original.tobytes() in crops


def test_any_step_can_be_had_without_those_before_it(config):
    straight, jumping = open_feed(config), open_feed(config)
    steps = [straight.inputs(0, step) for step in range(6)]
    later = straight.inputs(1, 0)
    for step in (4, 5, 0, 3):
        inputs = jumping.inputs(0, step)
        for name, value in inputs.items():
            np.testing.assert_array_equal(value, steps[step][name])
    np.testing.assert_array_equal(jumping.inputs(1, 0)["original"], later["original"])
    other = open_feed(config, seed=1).inputs(0, 0)
    assert not np.array_equal(other["original"], steps[0]["original"])


class Recorded:
    """Images that note which of them are opened."""

    def __init__(self, images):
        self._images, self.opened = images, []

    def __len__(self):
        return len(self._images)

    def open(self, index):
        self.opened.append(index)
        return self._images.open(index)


def test_an_epoch_has_every_image_once(config, folder):
    images = Recorded(images_module.open_images(str(folder)))
    chosen = np.arange(1, len(images), dtype=np.int32)
    feed = tf_pipeline.PipelineFeed(images, chosen, config, devices.make_mesh())
    for position in range(3 * len(chosen)):
        feed.example(0, position)
    epochs = np.reshape(images.opened, (3, len(chosen)))
    assert (np.sort(epochs, axis=1) == chosen).all()
    assert not np.array_equal(epochs[0], epochs[1])


def test_processes_read_disjoint_shares_of_the_same_batch(config, monkeypatch):
    feed = open_feed(config)
    whole = next(feed.dataset(0, 2).as_numpy_iterator())
    shares = []
    for process in range(2):
        monkeypatch.setattr(
            devices, "local_rows", lambda n, p=process: slice(n // 2 * p, n // 2 * (p + 1))
        )
        shares.append(next(feed.dataset(0, 2).as_numpy_iterator()))
    for name, value in whole.items():
        np.testing.assert_array_equal(np.concatenate([s[name] for s in shares]), value)


def test_images_of_no_use_are_counted_and_give_way_to_others(tmp_path, config):
    write_images(tmp_path / "images", count=6)
    Image.new("RGB", (12, 40)).save(tmp_path / "images" / "tiny.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"broken")
    feeds_ = [
        open_feed(
            config,
            **{
                "data.source": str(tmp_path / "images"),
                "data.validation": str(tmp_path / "images"),
            },
        )
        for _ in range(2)
    ]
    batches = [[f.inputs(0, step)["original"] for step in range(4)] for f in feeds_]
    np.testing.assert_array_equal(*batches)
    assert feeds_[0].skipped == {"unreadable": 1, "smaller than 16 pixels": 1}


def test_a_folder_of_no_use_is_one_clear_error(tmp_path, config):
    write_images(tmp_path / "good", count=3)
    (tmp_path / "bad").mkdir()
    for i in range(3):
        (tmp_path / "bad" / f"{i}.png").write_bytes(b"")
    sets = {"data.source": str(tmp_path / "bad"), "data.validation": str(tmp_path / "good")}
    with pytest.raises(ValueError, match=r"in a row can't be trained on: 3 unreadable"):
        open_feed(config, **sets).inputs(0, 0)


class Shots(tfds.core.GeneratorBasedBuilder):
    """Photographs, as someone's own data set has them."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "label": tfds.features.ClassLabel(num_classes=3),
            "picture": tfds.features.Image(encoding_format="jpeg"),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(14), "test": self._generate_examples(4)}

    def _generate_examples(self, count):
        rng = np.random.default_rng(count)
        y, x = np.mgrid[:64, :72]
        for i in range(count):
            waves = np.sin(x / rng.uniform(3, 9)) * np.cos(y / rng.uniform(3, 9))
            rgb = np.repeat((waves * 100 + 128)[..., None], 3, axis=-1) + rng.normal(0, 3, 3)
            yield i, {"picture": np.clip(rgb, 0, 255).astype(np.uint8), "label": i % 3}


@pytest.fixture(scope="module", params=["array_record", "tfrecord"])
def data_dir(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    builder = Shots(data_dir=folder, file_format=request.param)
    builder.download_and_prepare()
    return str(folder)


def test_a_tfds_data_set_is_read_at_random(data_dir):
    images = tfds_module.TfdsImages("shots", data_dir)
    assert len(images) == 14
    # TFDS's own ways to read it, undecoded.
    builder, raw = tfds.builder("shots", data_dir=data_dir), tfds.decode.SkipDecoding()
    if "array_record" in str(builder.info.file_format.value):
        source = builder.as_data_source(split="train", decoders={"picture": raw})
        expected = {source[i]["picture"] for i in range(len(source))}
    else:
        data_set = builder.as_dataset(split="train", decoders={"picture": raw})
        expected = {example["picture"].numpy() for example in data_set}
    assert {images.open(i).getvalue() for i in reversed(range(14))} == expected
    assert images.open(3).getvalue() == images.open(3).getvalue()
    part = tfds_module.TfdsImages("shots@train[20%:70%]", data_dir)
    assert 6 <= len(part) <= 8
    assert part.open(0).getvalue() == images.open(3).getvalue()
    assert len(tfds_module.TfdsImages("shots@test", data_dir)) == 4
    assert part.name(2) == "shots@train[20%:70%][2]"


def test_a_tfds_data_set_trains_by_name(data_dir, config, tmp_path):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(
        {
            "data.source": "tfds:shots",
            "data.data_dir": data_dir,
            "data.pipeline": "auto",
            "train.patch_sizes": (16,),
            "train.batch_sizes": (4,),
            "train.stage_steps": (8,),
        }
    )
    assert feeds.uses_tf_data(config)
    train(config, tmp_path / "aside")
    config.data.validation = "tfds:shots@test"
    train(config, tmp_path / "named")
    for name in ("aside", "named"):
        log = read_log(tmp_path / name)
        assert log[-1]["step"] == 8
        assert all(np.isfinite(r["loss"]) for r in log if "loss" in r)


def test_a_damaged_tfrecord_is_refused(tmp_path):
    Shots(data_dir=tmp_path, file_format="tfrecord").download_and_prepare()
    (path,) = tmp_path.rglob("*train.tfrecord*")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged or not a TFRecord file"):
        tfds_module.TfdsImages("shots", str(tmp_path))


def test_names_that_are_not_there(data_dir, tmp_path):
    with pytest.raises(ValueError, match="has no split 'nosuch'; expected one of: t"):
        tfds_module.TfdsImages("shots@nosuch", data_dir)
    with pytest.raises(ValueError, match="TFDS knows no data set 'no_such_set'"):
        tfds_module.TfdsImages("no_such_set", str(tmp_path))


def test_imagenet_is_asked_for_up_to_its_data(tmp_path):
    """Its builder, features and splits are TFDS's own; what is missing are the archives."""
    with pytest.raises(FileNotFoundError) as caught:
        tfds_module.TfdsImages("imagenet2012", str(tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    assert "tfds:imagenet2012 is not prepared in" in message
    assert str(tmp_path / "downloads" / "manual") in message
    assert "ILSVRC2012_img_train.tar" in message
    assert not list(tmp_path.rglob("*.array_record*"))


def write_imagenet(folder):
    """ImageNet's archives, as one downloads them: tars of JPEGs, and of tars of them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:80, :96]

    def add(archive, name, content):
        about = tarfile.TarInfo(name)
        about.size = len(content)
        archive.addfile(about, io.BytesIO(content))

    def photograph():
        waves = np.sin(x / rng.uniform(3, 9)) * np.cos(y / rng.uniform(3, 9)) * 100 + 128
        file = io.BytesIO()
        Image.fromarray(waves.astype(np.uint8)).convert("RGB").save(file, "JPEG", quality=95)
        return file.getvalue()

    folder.mkdir(parents=True)
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as train:
        for synset in ("n01440764", "n01443537", "n15075141"):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w") as photographs:
                for i in range(3):
                    add(photographs, f"{synset}_{i}.JPEG", photograph())
            add(train, f"{synset}.tar", file.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as validation:
        for i in range(1, 5):
            add(validation, f"ILSVRC2012_val_{i:08}.JPEG", photograph())


def test_imagenet_is_prepared_from_its_archives_and_trains(config, tmp_path):
    """Where the message says that they belong; all that is not real are the photographs."""
    with pytest.raises(FileNotFoundError) as caught:
        tfds_module.TfdsImages("imagenet2012", str(tmp_path / "data"))
    write_imagenet(Path(str(caught.value).split("by hand, to '")[1].split("'")[0]))
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(
        {
            "data.source": "tfds:imagenet2012",
            "data.validation": "tfds:imagenet2012@validation",
            "data.data_dir": str(tmp_path / "data"),
            "data.pipeline": "auto",
            "train.patch_sizes": (16,),
            "train.batch_sizes": (4,),
            "train.stage_steps": (6,),
        }
    )
    train(config, tmp_path / "run")
    assert read_log(tmp_path / "run")[-1]["step"] == 6
    assert len(tfds_module.TfdsImages("imagenet2012", str(tmp_path / "data"))) == 9


def test_gray_and_odd_images_come_through(tmp_path, config, rng):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        pixels = rng.integers(0, 65536, (40, 40), dtype=np.uint16)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    feed = open_feed(config, **{"data.source": str(folder), "data.validation": str(folder)})
    inputs = feed.inputs(0, 0)
    assert inputs["original"].shape == (4, 16, 16)
    assert np.asarray(inputs["original"]).min() >= 16
    file = io.BytesIO()
    Image.fromarray(np.asarray(inputs["original"][0])).save(file, "JPEG", quality=10)
    np.testing.assert_array_equal(np.asarray(Image.open(file)), inputs["decoded"][0])


def test_tensorflow_leaves_the_accelerators_alone():
    assert not tf.config.get_visible_devices("GPU")


@pytest.mark.slow
def test_tensorflow_is_imported_without_a_word():
    unset = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")
    done = subprocess.run(
        [sys.executable, "-c", "import dmcnn_jax.data.tensorflow_cpu"],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name not in unset},
        check=True,
    )
    assert done.stdout + done.stderr == ""
