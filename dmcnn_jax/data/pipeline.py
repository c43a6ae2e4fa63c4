"""Training pairs from tf.data: TFDS data sets by name, and folders too large to hold in memory.

Images are decoded by Pillow, which knows every odd kind (see `sources.read_rgb`) and lets go of
Python's lock meanwhile; patches are cropped, flipped and turned, and then compressed and decoded by
the libjpeg inside TensorFlow, all as tf.data's parallel map.

Everything follows from (seed, stage, step), and any step can be had without those before it: the
order is a permutation by (seed, stage, epoch), images are opened at random, crops are drawn
statelessly. So a run that resumes gets the pairs that it would have had, whatever file format the
data set has, and each host reads its own rows of every batch and nothing else.

An image that is of no use (damaged, smaller than the patch) is counted and gives way to another,
drawn by the same stateless randomness.
"""

import io
import os
import struct
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

# Nothing of what it says at import is news.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

try:
    import tensorflow as tf
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "tf.data needs TensorFlow, which is not installed; pip install 'dmcnn-jax[data]', or train "
        "on a folder or a pack with config.data.pipeline 'device'"
    ) from missing
import jax
import numpy as np

from dmcnn_jax.config.validation import batch_sizes
from dmcnn_jax.data import sources
from dmcnn_jax.data.on_device import epoch_order
from dmcnn_jax.images.color import rgb_to_y
from dmcnn_jax.system import devices

# The accelerators are JAX's alone.
for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

# Batches that are sent to the devices before the step asks for them.
_AHEAD = 2
# Images of no use in a row, after which the data set as a whole is deemed to be.
_ATTEMPTS = 100
# Where TensorFlow writes the file's only table: after SOI, APP0, and DQT's marker, length, number.
_TABLE_START = 25


class PipelineFeed:
    """Pairs from tf.data.

    Args:
        images: what there is.
        chosen: int32 [count], indices of the images to train on.
        config: of the run.
        mesh: to put batches on.

    Attributes:
        skipped: reason → number of images found to be of no use so far.
    """

    def __init__(
        self,
        images: sources.Images,
        chosen: np.ndarray,
        config: Mapping[str, Any],
        mesh: jax.sharding.Mesh,
    ):
        self._images, self._chosen, self._config = images, chosen, config
        self._sizes, self._batched = batch_sizes(config), devices.batched(mesh)
        # By index: one is counted once, however often it is drawn.
        self._reasons: dict[int, str] = {}
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._next: tuple[int, int] | None = None
        self._batches, self._ready = iter(()), []

    @property
    def fingerprint(self) -> str:
        """Differs where the images do."""
        return self._images.fingerprint

    @property
    def skipped(self) -> dict[str, int]:
        """Reason → number of images found to be of no use so far."""
        with self._lock:
            return dict(Counter(self._reasons.values()))

    def __str__(self) -> str:
        return f"{len(self._chosen):,} images, pairs from tf.data"

    def inputs(self, stage: int, stage_step: int) -> dict[str, jax.Array]:
        """A batch.

        Args:
            stage: index of the stage.
            stage_step: steps done in it; going on from the last call's is cheap, others start
                tf.data anew.

        Returns:
            "original" and "decoded", uint8 [B, patch, patch], and "table", int32 [B, 8, 8], of the
            file between them; split over the devices.

        Raises:
            ValueError: if the images turn out to be of no use.
        """
        if self._next != (stage, stage_step):
            self._batches = iter(self.dataset(stage, stage_step).as_numpy_iterator())
            self._ready = []
        while len(self._ready) < _AHEAD:
            try:
                batch = next(self._batches)
            except tf.errors.OpError:
                # What went wrong inside Python says more than TensorFlow's account of it.
                if self._error is not None:
                    raise self._error from None
                raise
            self._ready.append(
                {key: devices.to_devices(value, self._batched) for key, value in batch.items()}
            )
        self._next = (stage, stage_step + 1)
        return self._ready.pop(0)

    def dataset(self, stage: int, first_step: int = 0) -> tf.data.Dataset:
        """This process's rows of a stage's batches, without end.

        Args:
            stage: index of the stage.
            first_step: of the stage, to begin with.

        Returns:
            Batches as of `inputs`, of as many rows as this process provides.
        """
        size, patch = self._sizes[stage], self._config.train.patch_sizes[stage]
        rows = devices.local_rows(size)
        share = rows.stop - rows.start

        def fetch(example: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            step, row = divmod(int(example), share)
            try:
                return self.example(stage, step * size + rows.start + row)
            except BaseException as error:
                self._error = error
                raise

        def make(example: tf.Tensor) -> dict[str, tf.Tensor]:
            original, quality = tf.numpy_function(
                fetch, [example], (tf.uint8, tf.int32), stateful=False
            )
            pair = compress(tf.ensure_shape(original, (patch, patch)), quality)
            return pair | {"original": original}

        dataset = tf.data.Dataset.range(first_step * share, np.iinfo(np.int64).max)
        dataset = dataset.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return dataset.batch(share, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    def example(self, stage: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        """An original, a pure function of its arguments, the seed and the images.

        Args:
            stage: index of the stage.
            position: of the example in the stage, from 0, counted over all hosts.

        Returns:
            Pixels, uint8 [patch, patch], and the JPEG quality to compress them at, int32.

        Raises:
            ValueError: if many images in a row turn out to be of no use.
        """
        config = self._config
        patch = config.train.patch_sizes[stage]
        epoch, place = divmod(position, len(self._chosen))
        index = self._chosen[epoch_order(len(self._chosen), (config.seed, stage, epoch))[place]]
        rng = np.random.default_rng((config.seed, stage, position))
        for _ in range(_ATTEMPTS):
            rgb = self._read(int(index), patch)
            if rgb is not None:
                break
            index = self._chosen[rng.integers(len(self._chosen))]
        else:
            raise ValueError(
                f"{_ATTEMPTS} images of {config.data.source!r} in a row can't be trained on: "
                f"{sources.format_counts(self.skipped)}"
            )
        pixels = rgb_to_y(augment(rgb, patch, rng), config.data.luma)
        lowest, highest = tuple(config.quality_range) or (config.quality, config.quality)
        return pixels, np.int32(rng.integers(lowest, highest + 1))

    def _read(self, index: int, smallest: int) -> np.ndarray | None:
        """An image, or None if it is of no use, which is noted."""
        try:
            return sources.read_usable(self._images, index, self._config.data.reduce_to, smallest)
        except sources.UnusableImageError as error:
            with self._lock:
                self._reasons[index] = str(error)
            return None


def augment(rgb: np.ndarray, patch: int, rng: np.random.Generator) -> np.ndarray:
    """A crop, flipped and turned at random: uint8 [H, W, 3] → [patch, patch, 3], contiguous."""
    y, x = (rng.integers(0, side - patch + 1) for side in rgb.shape[:2])
    crop = rgb[y : y + patch, x : x + patch]
    upside_down, mirrored, transposed = rng.random(3) < 0.5
    if upside_down:
        crop = crop[::-1]
    if mirrored:
        crop = crop[:, ::-1]
    if transposed:
        crop = crop.swapaxes(0, 1)
    return np.ascontiguousarray(crop)


def compress(original: tf.Tensor, quality: tf.Tensor) -> dict[str, tf.Tensor]:
    """Writes a JPEG file as Pillow would, and reads it back as Pillow would.

    Args:
        original: uint8 [H, W].
        quality: int32 scalar, 1 to 100.

    Returns:
        "decoded", uint8 [H, W], and "table", int32 [8, 8], natural order, as it stands in the file.
    """
    file = tf.raw_ops.EncodeJpegVariableQuality(images=original[..., None], quality=quality)
    # By default TensorFlow decodes by another, faster inverse DCT, up to 18 levels away.
    decoded = tf.io.decode_jpeg(file, channels=1, dct_method="INTEGER_ACCURATE")[..., 0]
    zigzag = tf.io.decode_raw(tf.strings.substr(file, _TABLE_START, 64), tf.uint8)
    table = tf.reshape(tf.gather(zigzag, _ZIGZAG_RANK), (8, 8))
    return {
        "decoded": tf.ensure_shape(decoded, original.shape),
        "table": tf.cast(table, tf.int32),
    }


def _zigzag_rank() -> np.ndarray:
    """Where in a file's zigzag order each element of a table is, int32 [64]."""
    v, u = np.divmod(np.arange(64), 8)
    # Diagonal after diagonal; odd ones run downwards, even ones upwards.
    order = np.lexsort((np.where((v + u) % 2, v, u), v + u))
    return np.argsort(order).astype(np.int32)


_ZIGZAG_RANK = _zigzag_rank()


class TfdsImages:
    """The images of a TFDS data set, opened at random, whether ArrayRecord or TFRecord.

    A data set that is not there yet is downloaded and prepared as ArrayRecord, if it can be.
    TFRecord files have no index; theirs is made at the start, by hopping from record to record.

    Args:
        name: of the data set, with "@" and a split if it isn't "train": "imagenet2012@validation".
        data_dir: where data sets lie; empty: TFDS's own place.

    Raises:
        FileNotFoundError: if it has to be downloaded by hand first.
        ValueError: if there is no such data set or split, or it has no images.
        ModuleNotFoundError: if tensorflow-datasets is not installed.
    """

    def __init__(self, name: str, data_dir: str = ""):
        try:
            import tensorflow_datasets as tfds
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"tfds:{name} needs tensorflow-datasets, which is not installed; "
                "pip install 'dmcnn-jax[data]'"
            ) from error
        data_set, _, split = name.partition("@")
        self._name, split = name, split or "train"
        builder = _open_builder(tfds, data_set, os.path.expanduser(data_dir) or None)
        self._key = _image_feature(tfds, builder, data_set)
        try:
            info = builder.info.splits[split]
        except (KeyError, ValueError) as error:
            known = ", ".join(builder.info.splits)
            raise ValueError(
                f"tfds:{data_set} has no split {split!r}; expected one of: {known}"
            ) from error
        self._about = [str(builder.info.full_name), split, info.num_examples]
        instructions = info.file_instructions
        if str(builder.info.file_format.value).lower() == "array_record":
            self._records = _ArrayRecords(instructions)
        elif str(builder.info.file_format.value).lower() == "tfrecord":
            self._records = _TfRecords(instructions)
        else:
            raise ValueError(
                f"tfds:{data_set} is prepared as {builder.info.file_format.value}; expected "
                "array_record or tfrecord; prepare it again with --file_format=array_record"
            )

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        """The data set's name and the index."""
        return f"{self._name}[{index}]"

    def open(self, index: int) -> io.BytesIO:
        """The encoded image, as it lies in the data set."""
        example = tf.train.Example.FromString(self._records[int(index)])
        return io.BytesIO(example.features.feature[self._key].bytes_list.value[0])

    @property
    def fingerprint(self) -> str:
        """Of name, version, split and size."""
        return " ".join(map(str, self._about))


def _open_builder(tfds: Any, name: str, data_dir: str | None) -> Any:
    """The builder of a data set that is prepared, or is now."""
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"TFDS knows no data set {name!r}, and there is none in "
            f"{data_dir or 'its data_dir'!r}; "
            "expected a name of https://www.tensorflow.org/datasets/catalog, or of a data set "
            "prepared there; see config.data.data_dir"
        ) from error
    if builder.is_prepared():
        return builder
    if jax.process_count() > 1:
        raise FileNotFoundError(
            f"tfds:{name} is not prepared in {str(builder.data_path)!r}; prepare it before "
            f"starting several processes: tfds build {name} --file_format=array_record"
        )
    config = tfds.download.DownloadConfig()
    try:
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except (AssertionError, OSError) as error:
        if builder.MANUAL_DOWNLOAD_INSTRUCTIONS is None:
            raise FileNotFoundError(
                f"tfds:{name} is not in {str(builder.data_path)!r} and can't be downloaded: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        folder = builder.data_path.parents[1] / "downloads" / "manual"
        if builder.builder_config is not None:
            folder = folder.parent.parent.parent / "downloads" / "manual"
        told = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        raise FileNotFoundError(
            f"tfds:{name} is not prepared in {str(builder.data_path)!r}, and its files have to be "
            f"downloaded by hand, to {str(folder)!r}: {told} Then the same command prepares it; or "
            "set config.data.data_dir to where it is prepared"
        ) from error
    return builder


def _image_feature(tfds: Any, builder: Any, name: str) -> str:
    """The name of the first feature that is an image."""
    features = builder.info.features
    for key, feature in features.items():
        if isinstance(feature, tfds.features.Image):
            return key
    raise ValueError(f"tfds:{name} has no images; its features are: {', '.join(features)}")


class _ArrayRecords:
    """Records of ArrayRecord files by index."""

    def __init__(self, instructions: Sequence[Any]):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._source = ArrayRecordDataSource(list(instructions))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> bytes:
        return self._source[index]


class _TfRecords:
    """Records of TFRecord files by index.

    A record is its length (8 bytes), a checksum of that (4), the data, and a checksum of those (4).
    """

    def __init__(self, instructions: Sequence[Any]):
        self._paths, files, places = [], [], []
        for instruction in instructions:
            starts, lengths = _index_records(instruction.filename)
            if len(starts) != instruction.examples_in_shard:
                raise ValueError(
                    f"{instruction.filename!r} holds {len(starts)} records; expected "
                    f"{instruction.examples_in_shard}; the file is damaged, prepare it again"
                )
            chosen = slice(instruction.skip, instruction.skip + instruction.examples_in_shard)
            if instruction.take >= 0:
                chosen = slice(instruction.skip, instruction.skip + instruction.take)
            places.append(np.stack([starts[chosen], lengths[chosen]], axis=1))
            files.append(np.full(len(places[-1]), len(self._paths), np.int32))
            self._paths.append(instruction.filename)
        self._files, self._places = np.concatenate(files), np.concatenate(places)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> bytes:
        start, length = self._places[index]
        with tf.io.gfile.GFile(self._paths[self._files[index]], "rb") as file:
            file.seek(int(start))
            return file.read(int(length))


def _index_records(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the data of a TFRecord file's records start, and their lengths, int64, bytes."""
    size = tf.io.gfile.stat(path).length
    starts, lengths, place = [], [], 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while place < size:
            file.seek(place)
            header = file.read(8)
            length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
            if place + 16 + length > size:
                raise ValueError(f"{path!r} is damaged, or no TFRecord file; prepare it again")
            starts.append(place + 12)
            lengths.append(length)
            place += 16 + length
    return np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
