"""The command `dmcnn-evaluate`: scores a model on images."""

import argparse
import sys
from collections.abc import Sequence

from dmcnn_jax.evaluation import color_protocol
from dmcnn_jax.evaluation.protocol import (
    evaluate_folder,
    format_table,
    write_gallery,
    write_results,
)
from dmcnn_jax.inference.model import ENGINES, load
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer
from dmcnn_jax.system.compile_cache import enable_compilation_cache
from dmcnn_jax.system.malloc import tune_malloc
from dmcnn_jax.web.gallery import Gallery, describe


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; an error that a user can mend is one line and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="dmcnn-evaluate",
        description="Measures a model on a folder of images: PSNR, SSIM and PSNR-B of the JPEG and "
        "of the model's output.",
        epilog="examples:\n"
        "  dmcnn-evaluate --weights dmcnn-small-qf10 --images LIVE1 --quality 10\n"
        "  dmcnn-evaluate --weights runs/mine --images photos/ --quality 20 \\\n"
        "      --gallery gallery.html                    a page with a slider for every image\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights",
        help="a bundled name, a weights file or a workdir; with --color, of luma, by default what "
        "suits each file",
    )
    parser.add_argument("--images", required=True, help='folder of lossless images, or "packaged"')
    parser.add_argument("--quality", type=int, required=True, help="JPEG quality, 1 to 100")
    parser.add_argument("-o", "--output", default="results.json", help="default: %(default)s")
    parser.add_argument(
        "--luma",
        choices=("studio", "full"),
        default="studio",
        help="range of luma: studio, 16 to 235, is the protocol's (default); full is what JPEG "
        "files hold",
    )
    parser.add_argument(
        "--project", action="store_true", help="project the output into the quantisation intervals"
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="average over the image turned and mirrored in eight ways: a little better, eight "
        "times slower",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="jax",
        help="what computes the layers (%(default)s, which gives the same figures everywhere)",
    )
    parser.add_argument(
        "--color",
        action="store_true",
        help="measure what dmcnn-restore makes of colour files that Pillow writes: PSNR of RGB and "
        "of chroma, and how far the mean colour is off",
    )
    parser.add_argument("--chroma", help="with --color: weights that restore chroma (bundled)")
    parser.add_argument(
        "--subsampling",
        choices=color_protocol.SUBSAMPLING,
        default="4:2:0",
        help="with --color (%(default)s)",
    )
    parser.add_argument(
        "--gallery", metavar="FILE", help="also write an HTML page of all images, with a slider"
    )
    options = parser.parse_args(argv)
    tune_malloc()
    enable_compilation_cache()
    try:
        gallery = Gallery() if options.gallery else None
        if not 1 <= options.quality <= 100:
            raise ValueError(f"--quality is {options.quality}; expected 1 to 100")
        if options.color:
            _evaluate_color(options)
            return
        if not options.weights:
            raise ValueError("no --weights given: a bundled name, a weights file or a workdir")
        results = evaluate_folder(
            load(options.weights, options.engine),
            options.images,
            options.quality,
            luma=options.luma,
            project=options.project,
            ensemble=options.ensemble,
            gallery=gallery,
        )
        print(format_table(results))
        write_results(options.output, results)
        if gallery:
            print(describe(options.gallery, write_gallery(options.gallery, gallery, results)))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"dmcnn_jax: {error}")


def _evaluate_color(options: argparse.Namespace) -> None:
    """The command line with --color."""
    if options.gallery or options.ensemble:
        given = "--gallery" if options.gallery else "--ensemble"
        raise ValueError(f"{given} is of luma alone; leave it or --color out")
    restorer = Restorer(
        options.weights, RestoreOptions(engine=options.engine), chroma=options.chroma
    )
    results = color_protocol.evaluate_folder(
        restorer, options.images, options.quality, subsampling=options.subsampling
    )
    print(color_protocol.format_table(results))
    write_results(options.output, results)
