"""Opens the data for training and validation, as set in `config.data`.

A feed returns the arrays from which the jitted training step makes its batch:

    inputs(stage, stage_step) -> {name: array}     a pure function of its arguments
    fingerprint                                    differs if the images differ
    skipped                                        number of unusable images by reason

`luma_pairs.TileFeed` sends tiles, from which the step makes pairs; `tf_pipeline.PipelineFeed` sends
pairs that tf.data made. Both give the same pairs for the same crops, to the last bit.
`chroma_pairs.ColorFeed` and `photo_pairs.PhotoFeed` send RGB tiles, from which the step makes pairs
of chroma, or of all planes.
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypedDict

import jax
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.config.types import Config
from dmcnn_jax.config.validation import pipeline_of
from dmcnn_jax.data import chroma_pairs, luma_pairs, photo_pairs, sources
from dmcnn_jax.data import images as images_module
from dmcnn_jax.data import tiles as tiles_module

Inputs = Mapping[str, jax.Array] | chroma_pairs.ColorInputs | photo_pairs.PhotoInputs
"""The inputs that a feed sends to the training step."""


class Feed(Protocol):
    """A source of inputs of the training step."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """Number of unusable images, by reason."""

    @property
    def fingerprint(self) -> str:
        """Text that differs if the images differ."""

    def inputs(self, stage: int, stage_step: int) -> Inputs:
        """Returns the inputs of a training step.

        Args:
            stage: index of the stage.
            stage_step: number of steps done in the stage.
        """


def example_inputs(feed: Feed, stage: int) -> list[Inputs]:
    """Returns example inputs of a stage, one for each program of its training step.

    Args:
        feed: the feed.
        stage: index of the stage.
    """
    if isinstance(feed, chroma_pairs.ColorFeed | photo_pairs.PhotoFeed):
        first = feed.inputs(stage, 0)
        return [first.replace(subsampling=factors) for factors in feed.subsamplings]
    return [feed.inputs(stage, 0)]


def uses_tf_data(config: Config) -> bool:
    """Returns whether pairs are made by tf.data rather than on the device."""
    return pipeline_of(config.data.pipeline, config.data.source) == "tf.data"


def open_data(config: Config, mesh: jax.sharding.Mesh) -> tuple[Feed, tiles_module.Tiles]:
    """Opens the data for training and validation.

    Args:
        config: configuration of the run.
        mesh: devices that hold the batches.

    Returns:
        The feed, and validation tiles.

    Raises:
        FileNotFoundError: if there is no such data.
        ValueError: if no image can be used, or the pipeline can't make such pairs.
        ModuleNotFoundError: if a package that the source needs is not installed.
    """
    if uses_tf_data(config):
        from dmcnn_jax.data import tf_pipeline

        if config.random_table_prob:
            raise ValueError(
                f"config.random_table_prob is {config.random_table_prob}, but TensorFlow writes "
                "JPEGs with standard tables only; set config.data.pipeline to 'device', or "
                "config.random_table_prob to 0"
            )
        images = _open_images(config, config.data.source)
        chosen, validation = split_images(config, images)
        return tf_pipeline.PipelineFeed(images, chosen, config, mesh), validation
    training, validation = _open_tiles(config)
    if config.model.name == "photo":
        return photo_pairs.PhotoFeed(training, config, mesh), validation
    if config.data.luma == "rgb":
        return chroma_pairs.ColorFeed(training, config, mesh), validation
    return luma_pairs.TileFeed(training, config, mesh), validation


def open_validation(config: Config) -> tiles_module.Tiles:
    """Opens the validation tiles alone.

    Raises:
        FileNotFoundError: if there is no such data.
        ValueError: if no image can be used.
        ModuleNotFoundError: if a package that the source needs is not installed.
    """
    if config.data.validation:
        return _open_named_validation(config)
    if uses_tf_data(config):
        return split_images(config, _open_images(config, config.data.source))[1]
    return _open_tiles(config)[1]


def make_batch(
    inputs: Inputs,
    key: jax.Array,
    patch_size: int,
    config: Config,
    batched: jax.sharding.NamedSharding,
) -> dict[str, Any]:
    """Makes a batch from a feed's inputs, inside the jitted training step.

    Coefficients are always computed here, by `jpeg.encode`: tf.data writes and reads JPEG files,
    but can't read their coefficients, which don't follow from decoded pixels. `jpeg.encode` gives
    libjpeg's coefficients bit for bit, at less than a thousandth of a step's arithmetic. Pixels
    that libjpeg decoded inside tf.data are passed along as "decoded", so that each step verifies
    this.

    Args:
        inputs: result of `Feed.inputs`.
        key: random key for everything that the feed has not drawn: crops, flips, transpositions,
            tables.
        patch_size: side of the patches, pixels.
        config: configuration of the run.
        batched: sharding of a batch.

    Returns:
        As `make_batch` of `luma_pairs`, `chroma_pairs` or `photo_pairs`; with tf.data also
        "decoded", uint8 [B, patch_size, patch_size].
    """
    if isinstance(inputs, photo_pairs.PhotoInputs):
        return photo_pairs.make_batch(inputs, key, patch_size, config, batched)
    if isinstance(inputs, chroma_pairs.ColorInputs):
        return chroma_pairs.make_batch(inputs, key, patch_size, config, batched)
    if "tiles" not in inputs:
        coefficients = jpeg.encode(inputs["original"], inputs["table"])
        return {**inputs, "coefficients": coefficients}
    tiles = luma_pairs.select_tiles(inputs["tiles"], inputs.get("indices"), batched)
    return luma_pairs.make_batch(
        tiles, key, patch_size, inputs["qualities"], config.random_table_prob
    )


def validation_batch(
    tiles: tiles_module.Tiles, indices: np.ndarray, config: Config
) -> dict[str, Any]:
    """Makes a batch of validation tiles, at the quality of `config` or those of `photo_pairs`.

    Args:
        tiles: all validation tiles.
        indices: [B], of the tiles of this batch.
        config: configuration of the run.

    Returns:
        As `make_batch`, in host memory.
    """
    pixels = tiles.take(indices)
    if config.model.name == "photo":
        return jax.device_get(photo_pairs.validation_batch(pixels, indices, config))
    if config.data.luma == "rgb":
        return jax.device_get(chroma_pairs.validation_batch(pixels, config))
    table = np.asarray(jpeg.quality_table(config.quality))
    return {
        "original": pixels,
        "coefficients": np.asarray(jpeg.encode(pixels, table)),
        "table": np.broadcast_to(table, (len(pixels), 8, 8)),
    }


def split_images(
    config: Config, images: images_module.Images
) -> tuple[np.ndarray, tiles_module.Tiles]:
    """Splits images into training images and validation tiles, as set in `config.data`.

    Args:
        config: configuration of the run.
        images: all images.

    Returns:
        int32 indices of the training images, and tiles of the others.

    Raises:
        ValueError: if there are fewer than two images, or none can be used.
    """
    order = luma_pairs.epoch_order(len(images), (config.seed,))
    if config.data.validation:
        return order, _open_named_validation(config)
    if len(images) < 2:
        raise ValueError(
            f"{config.data.source!r} holds {len(images)} image; expected at least 2, one to "
            "validate on; or name others as config.data.validation"
        )
    # Twice as many candidates as needed, since some may be unusable.
    wanted = max(1, min(config.data.validation_images, len(images) // 3))
    aside = order[: max(1, min(2 * wanted, len(images) // 2))]
    validation = tiles_module.cut_images(images, chosen=aside, limit=wanted, **_options(config))
    return order[len(aside) :], validation


def _open_tiles(config: Config) -> tuple[tiles_module.Tiles, tiles_module.Tiles]:
    """Opens training and validation tiles for pairs made on the device."""
    data = config.data
    if data.source.startswith("tfds:"):
        tiles = tiles_module.cut_images(_open_images(config, data.source), **_options(config))
    else:
        tiles = sources.open_source(data.source, **_options(config))
    if data.validation:
        return tiles, _open_named_validation(config)
    return tiles_module.split(tiles, data.validation_images, config.seed)


def _open_named_validation(config: Config) -> tiles_module.Tiles:
    """Opens the tiles named by `config.data.validation`, gray images as evaluation reads them."""
    source = config.data.validation
    if not source.startswith("tfds:"):
        return sources.open_source(source, keep_gray=True, **_options(config))
    images = _open_images(config, source)
    order = luma_pairs.epoch_order(len(images), (config.seed,))
    limit = config.data.validation_images
    return tiles_module.cut_images(
        images, chosen=order, limit=limit, keep_gray=True, **_options(config)
    )


def _open_images(config: Config, source: str) -> images_module.Images:
    if not source.startswith("tfds:"):
        return images_module.open_images(source)
    from dmcnn_jax.data import tfds

    return tfds.TfdsImages(source.removeprefix("tfds:"), config.data.data_dir)


class _TileOptions(TypedDict):
    """Keyword arguments for cutting images into tiles."""

    tile: int
    luma: str
    max_short_side: int


def _options(config: Config) -> _TileOptions:
    data = config.data
    return {"tile": data.tile, "luma": data.luma, "max_short_side": data.max_short_side}
