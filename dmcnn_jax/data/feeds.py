"""What a run trains and validates on, as `config.data` says: the one place that chooses.

A feed gives the arrays that the jitted step makes its batch of:

    inputs(stage, stage_step) -> {name: array}     the same for the same arguments, at any time
    fingerprint                                    differs where the images do
    skipped                                        reason -> number of images that were no use

`on_device.TileFeed` sends tiles, of which the step makes pairs; `pipeline.PipelineFeed` sends pairs
that tf.data made. Both give the same pairs for the same crops, to the last bit.
`color_pairs.ColorFeed` sends tiles of RGB, of which the step makes pairs of chroma.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.config.validation import pipeline_of
from dmcnn_jax.data import chroma_pairs, on_device, sources
from dmcnn_jax.data import images as images_module
from dmcnn_jax.data import tiles as tiles_module


class Feed(Protocol):
    """What gives the step its inputs."""

    skipped: Mapping[str, int]

    @property
    def fingerprint(self) -> str:
        """Differs where the images do."""

    def inputs(self, stage: int, stage_step: int) -> dict[str, jax.Array]:
        """Of a step, given the index of its stage and the steps done in the stage."""


def uses_tf_data(config: Mapping[str, Any]) -> bool:
    """Whether pairs are made by tf.data rather than on the device."""
    return pipeline_of(config.data.pipeline, config.data.source) == "tf.data"


def open_data(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh
) -> tuple[Feed, tiles_module.Tiles]:
    """Opens what to train and to validate on.

    Args:
        config: of the run.
        mesh: that batches are put on.

    Returns:
        The feed, and validation tiles.

    Raises:
        FileNotFoundError: if there is no such data.
        ValueError: if none of it can be used.
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
    training, validation = _tiles(config)
    feed = chroma_pairs.ColorFeed if config.data.luma == "rgb" else on_device.TileFeed
    return feed(training, config, mesh), validation


def open_validation(config: Mapping[str, Any]) -> tiles_module.Tiles:
    """Opens what to validate on alone; arguments and errors as of `open_data`."""
    if config.data.validation:
        return _named_validation(config)
    if uses_tf_data(config):
        return split_images(config, _open_images(config, config.data.source))[1]
    return _tiles(config)[1]


def make_batch(
    inputs: Mapping[str, jax.Array],
    key: jax.Array,
    patch_size: int,
    config: Mapping[str, Any],
    batched: jax.sharding.NamedSharding,
) -> dict[str, jax.Array]:
    """What a feed gave → a batch; jitted with the step.

    Coefficients are made here in both cases, by `jpeg.encode`. tf.data can write and read JPEG
    files, but has no way to tell the coefficients that they hold, and those can't be recovered
    from decoded pixels; the codec gives what libjpeg writes, bit for bit, at less than a thousandth
    of a step's arithmetic. What libjpeg decoded inside tf.data comes along as "decoded", so that
    each step can check this promise instead of trusting it.

    Args:
        inputs: what `Feed.inputs` gave.
        key: a random key, for crops, flips, turns and qualities if they aren't made yet.
        patch_size: side of the patches, pixels.
        config: of the run.
        batched: sharding of a batch.

    Returns:
        As of `on_device.make_batch`, or of `color_pairs.make_batch`, and of tf.data "decoded" uint8
        [B, patch_size, patch_size].
    """
    if isinstance(inputs, chroma_pairs.ColorInputs):
        return chroma_pairs.make_batch(inputs, key, patch_size, config, batched)
    if "tiles" not in inputs:
        coefficients = jpeg.encode(inputs["original"], inputs["table"])
        return {**inputs, "coefficients": coefficients}
    tiles = inputs["tiles"]
    if "indices" in inputs:
        tiles = tiles.at[inputs["indices"]].get(mode="promise_in_bounds")
        tiles = jax.lax.with_sharding_constraint(tiles, batched)
    qualities = tuple(config.quality_range)
    return on_device.make_batch(
        tiles, key, patch_size, config.quality, qualities, config.random_table_prob
    )


def validation_batch(tiles: np.ndarray, config: Mapping[str, Any]) -> dict[str, Any]:
    """Validation tiles → a batch, at the quality of `config`.

    Args:
        tiles: uint8 [B, side, side], or [B, side, side, 3] of RGB.
        config: of the run.

    Returns:
        As of `make_batch`, in memory of the host.
    """
    if config.data.luma == "rgb":
        return jax.device_get(chroma_pairs.validation_batch(tiles, config))
    table = np.asarray(jpeg.quality_table(config.quality))
    return {
        "original": tiles,
        "coefficients": np.asarray(jpeg.encode(tiles, table)),
        "table": np.broadcast_to(table, (len(tiles), 8, 8)),
    }


def split_images(config: Mapping[str, Any], images: images_module.Images):
    """The images to train on, and validation tiles, as `config.data` says.

    Args:
        config: of the run.
        images: all there are.

    Returns:
        int32 indices of the images to train on, and tiles of others.

    Raises:
        ValueError: if there are fewer than two images, or none is any use.
    """
    order = on_device.epoch_order(len(images), (config.seed,))
    if config.data.validation:
        return order, _named_validation(config)
    if len(images) < 2:
        raise ValueError(
            f"{config.data.source!r} holds {len(images)} image; expected at least 2, one to "
            "validate on; or name others as config.data.validation"
        )
    # More candidates than are needed, since some may be no use.
    wanted = max(1, min(config.data.validation_images, len(images) // 3))
    aside = order[: max(1, min(2 * wanted, len(images) // 2))]
    validation = tiles_module.cut_images(images, chosen=aside, limit=wanted, **_options(config))
    return order[len(aside) :], validation


def _tiles(config: Mapping[str, Any]) -> tuple[tiles_module.Tiles, tiles_module.Tiles]:
    data = config.data
    if data.source.startswith("tfds:"):
        tiles = tiles_module.cut_images(_open_images(config, data.source), **_options(config))
    else:
        tiles = sources.open_source(data.source, **_options(config))
    if data.validation:
        return tiles, _named_validation(config)
    return tiles_module.split(tiles, data.validation_images, config.seed)


def _named_validation(config: Mapping[str, Any]) -> tiles_module.Tiles:
    source = config.data.validation
    if not source.startswith("tfds:"):
        return sources.open_source(source, **_options(config))
    images = _open_images(config, source)
    order = on_device.epoch_order(len(images), (config.seed,))
    limit = config.data.validation_images
    return tiles_module.cut_images(images, chosen=order, limit=limit, **_options(config))


def _open_images(config: Mapping[str, Any], source: str) -> images_module.Images:
    if not source.startswith("tfds:"):
        return images_module.open_images(source)
    from dmcnn_jax.data import tfds

    return tfds.TfdsImages(source.removeprefix("tfds:"), config.data.data_dir)


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    data = config.data
    return {"tile": data.tile, "luma": data.luma, "max_short_side": data.max_short_side}
