r"""Measures networks for photographs, or a pair of networks, in RGB, luma and chroma.

python tools/evaluate_photo.py --weights runs/photo --source packs/photo
python tools/evaluate_photo.py --weights dmcnn-any --chroma dmcnn-chroma --source packs/photo

It measures the tiles that training by configs/photo.py sets aside, or a folder of images.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import UsageError, command_parser, prepare_process


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    parser.add_argument("--weights", required=True, help="weights of a network, or its workdir")
    parser.add_argument("--chroma", help="of a pair: weights that restore chroma")
    parser.add_argument("--source", default="packaged", help="pack that was trained on")
    parser.add_argument("--images", default="", help="folder to measure instead, whole images")
    parser.add_argument(
        "--every", type=int, default=1, help="measure every n-th picture only (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the run (default: 0)")
    parser.add_argument("--qualities", type=int, nargs="+", help="default: 10 30 70")
    parser.add_argument(
        "--subsamplings",
        nargs="+",
        choices=("4:2:0", "4:2:2", "4:4:4"),
        metavar="S",
        help="4:2:0, 4:2:2 or 4:4:4 (default: 4:2:0 4:4:4)",
    )
    parser.add_argument("-o", "--output", help="JSON to write, the figures of each image")
    options = parser.parse_args(argv)
    return run_main("evaluate_photo", lambda: _run(options), argv)


def _run(options: argparse.Namespace) -> None:
    prepare_process()
    from dmcnn_jax.config import default_config
    from dmcnn_jax.evaluation import photo_protocol
    from dmcnn_jax.evaluation.results import write_results
    from dmcnn_jax.inference.model import load
    from dmcnn_jax.models.photo import PhotoNet

    config = default_config()
    config.seed, config.data.source, config.data.luma = options.seed, options.source, "rgb"
    config.data.tile, config.data.max_short_side = 160, 0
    model = load(options.weights)
    if isinstance(model.module, PhotoNet) == bool(options.chroma):
        expected = "no --chroma" if options.chroma else "--chroma, weights that restore chroma"
        raise UsageError(f"--weights is {options.weights!r}; expected {expected} with it")
    if options.chroma:
        restore = photo_protocol.restore_by_pair(model, load(options.chroma))
    else:
        restore = photo_protocol.restore_by_photo(model)
    images, total = photo_protocol.open_pictures(config, options.images)
    results = photo_protocol.evaluate(
        restore,
        itertools.islice(images, 0, None, options.every),
        total=-(-total // options.every),
        qualities=options.qualities or photo_protocol.QUALITIES,
        subsamplings=options.subsamplings or photo_protocol.SUBSAMPLINGS,
    )
    print(photo_protocol.format_table(results))
    if options.output:
        write_results(options.output, results)


if __name__ == "__main__":
    sys.exit(main())
