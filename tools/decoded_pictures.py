"""Measures what is recovered of JPEG files from pixels that were decoded from them.

The pictures are photographs of scikit-image, at half size, so that they show no earlier
compression. Each is compressed by Pillow (libjpeg-turbo), decoded, and cropped so that its blocks
begin at the given grid. Run: python tools/decoded_pictures.py
"""

import io
import itertools
import sys
from collections.abc import Sequence

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("decoded_pictures: interrupted")  # imports take seconds

import numpy as np
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser
from dmcnn_jax.data.graphics import KINDS as GRAPHICS
from dmcnn_jax.data.graphics import draw
from dmcnn_jax.restoration.decoded_file import finish, read_source
from dmcnn_jax.restoration.decoded_pixels import NotDecodedError, Recovery, recover
from dmcnn_jax.restoration.restorer import Restorer

NAMES = ("astronaut", "coffee", "chelsea", "rocket")
QUALITIES = (10, 30, 50, 75, 90, 95)
KINDS = {"gray": ("L", 0), "4:4:4": ("RGB", 0), "4:2:0": ("RGB", 2)}
GRIDS = ((0, 0), (3, 5))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    command_parser(None, __doc__).parse_args(argv)
    return run_main("decoded_pictures", print_measures, argv)


def print_measures() -> None:
    """Prints a table of recovered files, the false alarms, and what restoring gains."""
    pictures = [halved(pixels) for pixels in photographs()]
    print("| quality | kind | grid | found | steps | coefficients | exact pixels |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for quality, kind, grid in itertools.product(QUALITIES, KINDS, GRIDS):
        rows = [measure(picture, quality, *KINDS[kind], grid) for picture in pictures]
        found = [row for row in rows if row]
        means = np.mean(found, axis=0) if found else np.full(3, np.nan)
        shares = " | ".join(f"{mean:.2%}" for mean in means)
        print(f"| {quality} | {kind} | {grid} | {len(found)}/{len(rows)} | {shares} |", flush=True)
    clean = [picture.convert(mode) for picture in pictures for mode in ("L", "RGB")]
    alarms = sum(recovered(np.asarray(picture)) is not None for picture in clean)
    print(f"false alarms: {alarms} of {len(clean)} photographs", flush=True)
    rng = np.random.default_rng(0)
    drawn = [draw(kind, 256, rng) for kind in GRAPHICS for _ in range(4)]
    alarms = sum(recovered(np.asarray(image.convert("RGB"))) is not None for image in drawn)
    print(f"false alarms: {alarms} of {len(drawn)} drawn graphics", flush=True)
    restorer = Restorer()
    for quality in (10, 30, 75):
        gains = np.mean([measure_gain(restorer, picture, quality) for picture in pictures], axis=0)
        shown = ", ".join(f"{gain:+.2f} dB" for gain in gains)
        print(f"quality {quality}, gain from JPEG, its PNG, a cropped PNG: {shown}", flush=True)


def photographs() -> list[np.ndarray]:
    """Returns the photographs, uint8 [height, width, 3] each."""
    try:
        import skimage.data
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the photographs are scikit-image's, which is not installed; pip install "
            '"dmcnn-jax[train]"'
        ) from None
    return [getattr(skimage.data, name)() for name in NAMES]


def halved(pixels: np.ndarray) -> Image.Image:
    """Returns a picture at half size, in whole units of 16 pixels, 256 at most."""
    image = Image.fromarray(pixels)
    image = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    return image.crop((0, 0, min(256, image.width // 16 * 16), min(256, image.height // 16 * 16)))


def measure(
    image: Image.Image, quality: int, mode: str, subsampling: int, grid: tuple[int, int]
) -> tuple[float, float, float] | None:
    """Returns the shares of steps and coefficients that are the file's, and of exact pixels.

    Args:
        image: the original.
        quality: of the JPEG file.
        mode: "L" or "RGB".
        subsampling: of chroma, as Pillow names it.
        grid: where blocks begin after cropping: columns and rows.

    Returns:
        Averages over all planes; None if nothing was recovered.
    """
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    left, top = -grid[0] % 8, -grid[1] % 8
    recovery = recovered(np.asarray(Image.open(buffer))[top:, left:])
    if recovery is None:
        return None
    file = jpeg.read(buffer.getvalue())
    pairs = list(zip(recovery.components, file.components, strict=True))
    steps = np.mean([np.mean(found.table == true.table) for found, true in pairs])
    same = [
        np.mean(found.coefficients == true.coefficients)
        if found.coefficients.shape == true.coefficients.shape
        else 0.0
        for found, true in pairs
    ]
    return float(steps), float(np.mean(same)), recovery.exact


def measure_gain(
    restorer: Restorer, image: Image.Image, quality: int
) -> tuple[float, float, float]:
    """Returns what restoring gains in PSNR of RGB: a JPEG file, a PNG of it, and a cropped one."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    original, given = np.asarray(image), np.asarray(Image.open(buffer))
    from_jpeg = restorer(jpeg.read(buffer.getvalue())).pixels
    gains = [psnr(original, from_jpeg) - psnr(original, given)]
    for part in (np.s_[:, :], np.s_[5:, 3:]):
        stored = io.BytesIO()
        Image.fromarray(given[part]).save(stored, "PNG")
        file = read_source(stored.getvalue())
        restored = finish(file, restorer(file)).pixels
        gains.append(psnr(original[part], restored) - psnr(original[part], given[part]))
    return gains[0], gains[1], gains[2]


def psnr(original: np.ndarray, other: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio of 8-bit pixels, in dB."""
    return float(10 * np.log10(255**2 / np.mean((original.astype(float) - other) ** 2)))


def recovered(pixels: np.ndarray) -> Recovery | None:
    """Returns what is recovered of pixels; None if they are refused."""
    try:
        return recover(pixels)
    except NotDecodedError:
        return None


if __name__ == "__main__":
    sys.exit(main())
