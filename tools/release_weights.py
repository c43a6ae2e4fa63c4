r"""Bundles a run's best weights with the package: in float16, with a model card.

    python tools/release_weights.py runs/small-qf10 dmcnn-small-qf10 \
        --purpose "Luma of JPEGs of quality 10" --data "…" --hardware "…" \
        --command "python -m dmcnn_jax.main --config configs/small_qf10.py" \
        --scores results.json

This writes dmcnn_jax/weights/dmcnn-small-qf10.safetensors, with kernels in float16, and the card
dmcnn_jax/weights/dmcnn-small-qf10.md. `--scores` names files that dmcnn-evaluate has written for
these weights.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("release_weights: interrupted")  # imports take seconds

import jax

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser
from dmcnn_jax.inference.weights import find_weights, load_weights, save_weights
from dmcnn_jax.system.atomic_write import write_file
from dmcnn_jax.system.bundled import BUNDLED

_CARD = """# {name}

{purpose}.

| | |
| --- | --- |
| network | `{model}`, {weights:,} weights |
| input | {luma}, JPEG quality {quality} |
| trained by | `{command}` |
| started from | {init} |
| steps | {step:,} |
| data | {data} |
| hardware | {hardware} |
| validation | {psnr:.3f} dB, {gain:+.3f} dB over the JPEG, on the images set aside |
{color}{speed}| licence | Apache 2.0 |

{scores}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    parser.add_argument("source", help="workdir or weights file")
    parser.add_argument("name", help="name to bundle it as")
    for field in ("purpose", "data", "hardware", "command"):
        parser.add_argument(f"--{field}", required=True, help="for the card")
    parser.add_argument("--init", default="random weights", help="what training started from")
    parser.add_argument(
        "--speed", help="time for a colour photograph of 12 megapixels, and where: for the card"
    )
    parser.add_argument("--scores", nargs="*", default=[], help="results.json files, for the card")
    parser.add_argument(
        "--validation",
        help="results.json of --mode=evaluate, if the weights file has none",
    )
    options = parser.parse_args(argv)
    return run_main("release_weights", lambda: _release(options), argv)


def _release(options: argparse.Namespace) -> None:
    source = find_weights(options.source)
    variables, about = load_weights(source)
    scores = [_read_scores(path, source, options.name) for path in options.scores]
    if options.validation:
        mean = json.loads(Path(options.validation).read_text())["mean"]
        psnr = mean["model"]["psnr"]
        about["validation"] = {"psnr": psnr, "gain": psnr - mean["jpeg"]["psnr"]}
    if "validation" not in about:
        raise ValueError(f"{options.source!r} has no validation result; give it by --validation")
    save_weights(BUNDLED / f"{options.name}.safetensors", variables, about, dtype="float16")
    card = _CARD.format(
        name=options.name,
        purpose=options.purpose,
        model=json.dumps(about["model"]),
        weights=sum(x.size for x in jax.tree.leaves(variables)),
        luma="colours" if about["luma"] == "rgb" else f"luma in the {about['luma']} range",
        quality=" to ".join(map(str, about["quality_range"])) or about["quality"],
        command=options.command,
        init=options.init,
        step=about["step"],
        data=options.data,
        hardware=options.hardware,
        psnr=about["validation"]["psnr"],
        gain=about["validation"]["gain"],
        color=_color_cell(scores),
        speed=f"| 12 megapixels, colour | {options.speed} |\n" if options.speed else "",
        scores="\n\n".join(filter(None, (_scores(scores), _color_scores(scores)))),
    )
    write_file(BUNDLED / f"{options.name}.md", (card.rstrip() + "\n").encode())
    print(card)


def _read_scores(path: str, source: Path, name: str) -> dict[str, Any]:
    """Returns what dmcnn-evaluate has written, if it measured these weights.

    Args:
        path: file of dmcnn-evaluate.
        source: the weights file that is bundled.
        name: name to bundle it as; scores of an earlier bundling of these weights have it.

    Raises:
        ValueError: if it measured other weights, whose scores would be wrong on the card.
    """
    result: dict[str, Any] = json.loads(Path(path).read_text())
    # Results in colour have a model for each picture.
    measured = str(result["per_image"][0]["model"] if _is_color(result) else result["model"])
    try:
        same = measured == name or find_weights(measured).samefile(source)
    except FileNotFoundError:
        same = False
    if not same:
        raise ValueError(
            f"{path} has scores of {measured!r}; expected scores of {os.fspath(source)!r}: measure"
            " it by dmcnn-evaluate"
        )
    return result


def _scores(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns the card's table of test results of luma, in Markdown."""
    results = [result for result in results if not _is_color(result)]
    if not results:
        return ""
    lines = [
        "| test set | quality | | PSNR | SSIM 8 × 8 | SSIM Gauss | PSNR-B |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        images = f"{Path(result['images']).name}, {len(result['per_image'])} images"
        names = {"jpeg": "JPEG", "model": "restored"}
        if "unprojected" in result["mean"]:
            names = {"jpeg": "JPEG", "unprojected": "restored", "model": "the same, projected"}
        for key, name in names.items():
            m = result["mean"][key]
            lines.append(
                f"| {images} | {result['quality']} | {name} | "
                f"{m['psnr']:.3f} | {m['ssim']:.4f} | {m['ssim_gauss']:.4f} | {m['psnr_b']:.3f} |"
            )
    return "\n".join(lines)


def _color_cell(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns the card's line of the first result in colour, in Markdown."""
    for result in filter(_is_color, results):
        before, after = result["mean"]["jpeg"], result["mean"]["restored"]
        return (
            f"| {Path(result['images']).name} in colour | {result['quality']}: RGB "
            f"{after['rgb_psnr']:.3f}, chroma {after['chroma_psnr']:.3f} dB; "
            f"{result['subsampling']}; the JPEG has {before['rgb_psnr']:.3f} and "
            f"{before['chroma_psnr']:.3f} dB |\n"
        )
    return ""


def _color_scores(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns the card's table of test results in colour, in Markdown."""
    results = [result for result in results if _is_color(result)]
    if not results:
        return ""
    lines = [
        "| test set in colour | quality | | RGB PSNR | luma | chroma |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        images = f"{Path(result['images']).name}, {result['subsampling']}"
        for key, name in (("jpeg", "JPEG"), ("restored", "restored")):
            mean = result["mean"][key]
            values = (f"{mean[f'{plane}_psnr']:.3f}" for plane in ("rgb", "luma", "chroma"))
            lines.append(f"| {images} | {result['quality']} | {name} | {' | '.join(values)} |")
    return "\n".join(lines)


def _is_color(result: Mapping[str, Any]) -> bool:
    """Returns whether dmcnn-evaluate wrote a result with --color."""
    return "subsampling" in result


if __name__ == "__main__":
    sys.exit(main())
