"""Training pairs made by tf.data, from images that are read when needed."""

import threading
from collections import Counter
from collections.abc import Iterator

import jax
import numpy as np

from dmcnn_jax.config.types import Config
from dmcnn_jax.config.validation import batch_sizes, quality_bounds
from dmcnn_jax.data import images as images_module
from dmcnn_jax.data import tiles
from dmcnn_jax.data.luma_pairs import epoch_order
from dmcnn_jax.data.tensorflow_cpu import tf
from dmcnn_jax.jpeg.tables import ZIGZAG
from dmcnn_jax.system import devices

# Number of batches sent to the devices ahead of the training step.
_AHEAD = 2

# Number of consecutive unusable images after which an error is raised.
_ATTEMPTS = 100

# Offset, in bytes, of the only table in the files that TensorFlow writes: it follows SOI, APP0, and
# the marker, length and number of DQT.
_TABLE_START = 25


class PipelineFeed:
    """A feed of luma pairs that tf.data makes.

    Args:
        images: all images.
        chosen: int32 [count], indices of the training images.
        config: configuration of the run.
        mesh: devices that hold the batches.
    """

    def __init__(
        self,
        images: images_module.Images,
        chosen: np.ndarray,
        config: Config,
        mesh: jax.sharding.Mesh,
    ) -> None:
        self._images, self._chosen, self._config = images, chosen, config
        self._sizes, self._batched = batch_sizes(config), devices.batched(mesh)
        # By index, so that each image is counted once, however often it is drawn.
        self._reasons: dict[int, str] = {}
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._next: tuple[int, int] | None = None
        self._batches: Iterator[dict[str, np.ndarray]] = iter(())
        self._ready: list[dict[str, jax.Array]] = []

    @property
    def fingerprint(self) -> str:
        """Text that differs if the images differ."""
        return self._images.fingerprint

    @property
    def skipped(self) -> dict[str, int]:
        """Number of images found to be unusable so far, by reason."""
        with self._lock:
            return dict(Counter(self._reasons.values()))

    def __str__(self) -> str:
        return f"{len(self._chosen):,} images, pairs from tf.data"

    def inputs(self, stage: int, stage_step: int) -> dict[str, jax.Array]:
        """Returns the batch of a training step.

        Args:
            stage: index of the stage.
            stage_step: number of steps done in the stage. Consecutive steps are cheap; any other
                order restarts tf.data.

        Returns:
            "original" and "decoded", uint8 [B, patch, patch], and "table", int32 [B, 8, 8], the
            table of the file that "original" was saved to and "decoded" was read from; split over
            the devices.

        Raises:
            ValueError: if many images in a row are unusable.
        """
        if self._next != (stage, stage_step):
            self._batches = iter(self.dataset(stage, stage_step).as_numpy_iterator())
            self._ready = []
        while len(self._ready) < _AHEAD:
            try:
                batch = next(self._batches)
            except tf.errors.OpError:
                # Re-raised, since the original exception inside tf.data is clearer than
                # TensorFlow's.
                if self._error is not None:
                    raise self._error from None
                raise
            self._ready.append(
                {key: devices.to_devices(value, self._batched) for key, value in batch.items()}
            )
        self._next = (stage, stage_step + 1)
        return self._ready.pop(0)

    def dataset(self, stage: int, first_step: int = 0) -> tf.data.Dataset:
        """Returns an endless data set of this process's rows of a stage's batches.

        Args:
            stage: index of the stage.
            first_step: step of the stage to begin with.

        Returns:
            Batches as `inputs` returns them, of as many rows as this process provides.
        """
        size, patch = self._sizes[stage], self._config.train.patch_sizes[stage]
        rows = devices.local_rows(size)
        share = rows.stop - rows.start

        def fetch(example: np.ndarray) -> tuple[np.ndarray, np.int32]:
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

    def example(self, stage: int, position: int) -> tuple[np.ndarray, np.int32]:
        """Returns an original, as a pure function of the arguments, the seed and the images.

        Args:
            stage: index of the stage.
            position: position of the example in the stage, from 0, counted over all processes.

        Returns:
            Pixels, uint8 [patch, patch], and the JPEG quality to compress them at, int32 scalar.

        Raises:
            ValueError: if many images in a row are unusable.
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
                f"{tiles.format_counts(self.skipped)}; choose another config.data.source"
            )
        pixels = images_module.select_channels(augment(rgb, patch, rng), config.data.luma)
        lowest, highest = quality_bounds(config)
        return pixels, np.int32(rng.integers(lowest, highest + 1))

    def _read(self, index: int, smallest: int) -> np.ndarray | None:
        """Returns an image, or None if it is unusable, which is counted."""
        try:
            return images_module.read_usable(
                self._images, index, self._config.data.max_short_side, smallest
            )
        except images_module.UnusableImageError as error:
            with self._lock:
                self._reasons[index] = str(error)
            return None


def augment(rgb: np.ndarray, patch: int, rng: np.random.Generator) -> np.ndarray:
    """Crops, flips and transposes an image at random.

    Args:
        rgb: uint8 [H, W, 3].
        patch: side of the crop, pixels.
        rng: random generator.

    Returns:
        uint8 [patch, patch, 3], contiguous.
    """
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
    """Writes a JPEG file and reads it back, with the same bytes and pixels as Pillow.

    Args:
        original: uint8 [H, W].
        quality: int32 scalar, 1 to 100.

    Returns:
        "decoded", uint8 [H, W], and "table", int32 [8, 8], the file's table in natural order.
    """
    file = tf.raw_ops.EncodeJpegVariableQuality(images=original[..., None], quality=quality)
    # TensorFlow's default is a faster inverse DCT that is off by up to 18 levels.
    decoded = tf.io.decode_jpeg(file, channels=1, dct_method="INTEGER_ACCURATE")[..., 0]
    zigzag = tf.io.decode_raw(tf.strings.substr(file, _TABLE_START, 64), tf.uint8)
    table = tf.reshape(tf.gather(zigzag, _ZIGZAG_RANK), (8, 8))
    return {
        "decoded": tf.ensure_shape(decoded, original.shape),
        "table": tf.cast(table, tf.int32),
    }


# Position of each element of a table in a file's zigzag order: int32 [64].
_ZIGZAG_RANK = np.argsort(ZIGZAG).astype(np.int32)
