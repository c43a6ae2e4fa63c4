"""The command `dmcnn-evaluate`: measures a model on a folder of images."""

import argparse
from collections.abc import Callable, Sequence

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import UsageError, command_parser, prepare_process

_EXAMPLES = """examples:
  dmcnn-evaluate --weights dmcnn-small-qf10 --images LIVE1 --quality 10
  dmcnn-evaluate --weights runs/mine --images photos/ --quality 20 \\
      --gallery gallery.html                    a page with a slider for every image
  dmcnn-evaluate --color --images photos/ --quality 20
"""

# Options that apply only with --color, and options that don't apply with it.
_COLOR_ONLY = ("chroma", "subsampling")
_LUMA_ONLY = ("luma", "project", "ensemble", "gallery")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dmcnn-evaluate` and returns its exit status."""
    return run_main("dmcnn-evaluate", lambda: _run(make_parser().parse_args(argv)), argv)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of `dmcnn-evaluate`."""
    parser = command_parser(
        "dmcnn-evaluate",
        "Measures a model on a folder of images: PSNR, SSIM and PSNR-B of the JPEG and of the\n"
        "model's output.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add(
        "--weights",
        metavar="NAME",
        help="a bundled name, a weights file or the folder of a training run; required without"
        " --color (default with --color: the bundled models that dmcnn-restore would use)",
    )
    add("--images", required=True, help='folder of lossless images, or "packaged"')
    add("--quality", type=int, required=True, help="JPEG quality, 1 to 100")
    add("-o", "--output", default="results.json", help="file to write (default: %(default)s)")
    add(
        "--engine",
        choices=("auto", "jax", "openvino", "openvino-float32", "openvino-bfloat16"),
        default="jax",
        help="library that computes the network's layers (default: jax, which gives the same"
        " figures everywhere)",
    )
    _add_luma_options(parser.add_argument_group("luma, the default").add_argument)
    _add_color_options(parser.add_argument_group("colour").add_argument)
    return parser


def _add_luma_options(add: Callable[..., argparse.Action]) -> None:
    add(
        "--luma",
        choices=("studio", "full"),
        help="range that colour images are converted to: studio, 16 to 235, as in the protocol"
        " (default); full, 0 to 255, as in JPEG files. Gray images are used as they are",
    )
    add(
        "--project",
        action="store_true",
        help="project the output into the JPEG's quantisation intervals",
    )
    add(
        "--ensemble",
        action="store_true",
        help="average over the eight rotations and reflections: slightly better, eight times"
        " slower",
    )
    add("--gallery", metavar="FILE", help="also write an HTML page of all images, with a slider")


def _add_color_options(add: Callable[..., argparse.Action]) -> None:
    add(
        "--color",
        action="store_true",
        help="measure dmcnn-restore on colour files that Pillow writes: PSNR of RGB and of chroma,"
        " and the shift of the mean colour",
    )
    add("--chroma", metavar="NAME", help="weights that restore chroma (default: bundled)")
    add(
        "--subsampling",
        choices=("4:4:4", "4:2:2", "4:2:0"),
        help="chroma subsampling of the files (default: 4:2:0)",
    )


def _run(options: argparse.Namespace) -> None:
    if not 1 <= options.quality <= 100:
        raise UsageError(f"--quality is {options.quality}; expected 1 to 100")
    for name in _LUMA_ONLY if options.color else _COLOR_ONLY:
        if getattr(options, name):
            expected = "without" if options.color else "with"
            raise UsageError(f"--{name} has no effect here; use it {expected} --color")
    if not options.color and not options.weights:
        raise UsageError("no --weights given; expected a bundled name, a weights file or a workdir")
    prepare_process()
    if options.color:
        _evaluate_color(options)
    else:
        _evaluate_luma(options)


def _evaluate_luma(options: argparse.Namespace) -> None:
    from dmcnn_jax.evaluation import protocol
    from dmcnn_jax.inference.model import load
    from dmcnn_jax.web.gallery import Gallery, describe

    gallery = Gallery() if options.gallery else None
    results = protocol.evaluate_folder(
        load(options.weights, options.engine),
        options.images,
        options.quality,
        luma=options.luma or "studio",
        project=options.project,
        ensemble=options.ensemble,
        gallery=gallery,
    )
    print(protocol.format_table(results))
    protocol.write_results(options.output, results)
    if gallery:
        left_out = protocol.write_gallery(options.gallery, gallery, results)
        print(describe(options.gallery, left_out))


def _evaluate_color(options: argparse.Namespace) -> None:
    from dmcnn_jax.evaluation import color_protocol, protocol
    from dmcnn_jax.restoration.options import RestoreOptions
    from dmcnn_jax.restoration.restorer import Restorer

    engine = RestoreOptions(engine=options.engine)
    restorer = Restorer(options.weights, engine, chroma=options.chroma)
    results = color_protocol.evaluate_folder(
        restorer, options.images, options.quality, subsampling=options.subsampling or "4:2:0"
    )
    print(color_protocol.format_table(results))
    protocol.write_results(options.output, results)
