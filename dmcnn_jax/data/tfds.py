"""Random access to the images of TensorFlow Datasets (TFDS)."""

import io
import os
import struct
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from dmcnn_jax.data.tensorflow_cpu import tf


class TfdsImages:
    """The images of a TFDS data set, stored as ArrayRecord or TFRecord.

    A data set that is not prepared yet is downloaded and prepared as ArrayRecord, if possible.
    TFRecord files have no index; one is made at the start from the lengths of the records.

    Args:
        name: name of the data set, followed by "@" and a split unless that is "train":
            "imagenet2012@validation".
        data_dir: folder of the data sets; empty for TFDS's default.

    Raises:
        FileNotFoundError: if the data set has to be downloaded by hand first.
        ValueError: if there is no such data set or split, or it has no images.
        ModuleNotFoundError: if tensorflow-datasets is not installed.
    """

    def __init__(self, name: str, data_dir: str = "") -> None:
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
        self._records: _Records
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
        """Returns the data set's name and the index."""
        return f"{self._name}[{index}]"

    def open(self, index: int) -> io.BytesIO:
        """Returns an image as a file, encoded as in the data set."""
        example = tf.train.Example.FromString(self._records[int(index)])
        return io.BytesIO(example.features.feature[self._key].bytes_list.value[0])

    @property
    def fingerprint(self) -> str:
        """Name, version, split and size of the data set."""
        return " ".join(map(str, self._about))


def _open_builder(tfds: Any, name: str, data_dir: str | None) -> Any:
    """Returns the builder of a data set; prepares the data set first if necessary."""
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"TFDS knows no data set {name!r}, and there is none in "
            f"{data_dir or 'its data_dir'!r}; "
            "expected a name of https://www.tensorflow.org/datasets/catalog, or of a data set "
            "prepared in config.data.data_dir"
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
        instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        raise FileNotFoundError(
            f"tfds:{name} is not prepared in {str(builder.data_path)!r}, and its files have to be "
            f"downloaded by hand, to {str(folder)!r}: {instructions} Then the same command "
            "prepares it; or set config.data.data_dir to the folder of a prepared one"
        ) from error
    return builder


def _image_feature(tfds: Any, builder: Any, name: str) -> str:
    """Returns the name of the first feature that is an image."""
    features = builder.info.features
    for key, feature in features.items():
        if isinstance(feature, tfds.features.Image):
            return key
    raise ValueError(f"tfds:{name} has no images; its features are: {', '.join(features)}")


class _Records(Protocol):
    """Serialised examples by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes: ...


class _ArrayRecords:
    """Records of ArrayRecord files by index."""

    def __init__(self, instructions: Sequence[Any]) -> None:
        from array_record.python.array_record_data_source import (  # type: ignore[import-untyped]  # it has no types
            ArrayRecordDataSource,
        )

        self._source = ArrayRecordDataSource(list(instructions))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> bytes:
        return self._source[index]


class _TfRecords:
    """Records of TFRecord files by index.

    A record is its length (8 bytes), the length's checksum (4), the data, and the data's checksum
    (4).
    """

    def __init__(self, instructions: Sequence[Any]) -> None:
        self._paths: list[str] = []
        files: list[np.ndarray] = []
        places: list[np.ndarray] = []
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
    """Returns offsets and lengths of the data of a TFRecord file's records, int64, bytes."""
    size = tf.io.gfile.stat(path).length
    starts: list[int] = []
    lengths: list[int] = []
    place = 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while place < size:
            file.seek(place)
            header = file.read(8)
            length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
            if place + 16 + length > size:
                raise ValueError(f"{path!r} is damaged or not a TFRecord file; prepare it again")
            starts.append(place + 12)
            lengths.append(length)
            place += 16 + length
    return np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
