"""Small archives, restored in this process without networks; imported by tests of archives."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason='pip install "dmcnn-jax[archive]"')
pytest.importorskip("fsspec", reason='pip install "dmcnn-jax[archive]"')

from dmcnn_jax.archives import planning
from dmcnn_jax.archives.driver import pending_shards
from dmcnn_jax.archives.options import ArchiveOptions
from dmcnn_jax.archives.pictures import PictureRestorer
from dmcnn_jax.archives.plan import Archive
from dmcnn_jax.archives.shard import run_shard
from dmcnn_jax.restoration.options import RestoreOptions

DECODE = ArchiveOptions(restore=RestoreOptions(strength=0, engine="jax", size="fast"))


def jpeg_bytes(level):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 16), level, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_jpegs(folder, count):
    """Writes small JPEG files, each of a level of gray of its own."""
    for number in range(count):
        path = folder / f"{number % 3}" / f"p{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg_bytes(5 * number))
    return folder


def write_tar(path, names):
    """Writes a tar file of small JPEG files, each of a level of gray of its own."""
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            data = jpeg_bytes(5 * number)
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return path


def contents(folder):
    """The files in a folder and their bytes, without what the archive keeps for itself."""
    found = (p for p in folder.rglob("*") if p.is_file() and "_archive" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def plan(source, target, size=4, options=DECODE, *, overwrite=False):
    planning.make_plan(str(source), str(target), options, shard_size=size, overwrite=overwrite)
    return Archive(str(target))


def no_isolation(shard, index):
    raise AssertionError("no file is under suspicion")


def finish(archive, isolate=no_isolation):
    restorer = PictureRestorer(archive)
    for shard in pending_shards(archive):
        run_shard(restorer, shard, isolate)


def alone(restorer):
    """Isolation that needs no process."""
    return lambda shard, index: restorer.run(restorer.archive.rows(shard)[index])
