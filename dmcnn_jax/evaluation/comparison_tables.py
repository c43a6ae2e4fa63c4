"""Tables of a comparison, as `dmcnn_jax.evaluation.comparison.compare` returns it."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from dmcnn_jax.images import metrics


def to_markdown(results: Mapping[str, Any]) -> str:
    """Returns the tables that `compare` made as Markdown."""
    psnr, *others = metrics.HEADINGS.values()
    head = f"| | {psnr} | gain over {results['against']}, 95 % | {' | '.join(others)} "
    head += "| DMCNN's paper | later papers | missing "
    head += "| weights | kFLOP a pixel | Mpixel/s | field |"
    rule = "| --- " + "| ---: " * 12 + "|"
    lines = []
    for table in results["tables"]:
        lines += [
            f"**{table['images']}, quality {table['quality']}** ({table['count']} images)",
            "",
        ]
        lines += [head, rule]
        for row in table["rows"]:
            lines.append("| " + " | ".join(_cells(row, results["profiles"])) + " |")
        lines.append("")
    lines += [
        "DMCNN's paper: PSNR / SSIM 8×8 / PSNR-B; later papers: PSNR / SSIM Gauss; missing: their "
        "PSNR less the measured one, dB. Gains in PSNR are means over images, with the 95 % "
        "interval of a paired bootstrap. The field is the side, in pixels, of the receptive field, "
        "measured by gradient; a DCT branch extends it.",
        "",
    ]
    return "\n".join(lines)


def to_csv(results: Mapping[str, Any]) -> str:
    """Returns the tables that `compare` made as CSV; unknown values are empty cells."""
    columns = ["images", "quality", "count", "label", "system", *metrics.HEADINGS]
    columns += ["gain", "gain_low", "gain_high"]
    columns += ["paper_psnr", "paper_ssim", "paper_psnr_b", "later_psnr", "later_ssim_gauss"]
    columns += ["weights", "flops_per_pixel", "pixels_per_second", "field"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for table in results["tables"]:
        for row in table["rows"]:
            gained, means = row["gain"] or {}, row["measured"] or {}
            costs = results["profiles"].get(row["label"], {})
            writer.writerow(
                [table["images"], table["quality"], table["count"], row["label"], row["system"]]
                + [means.get(measure, "") for measure in metrics.HEADINGS]
                + [gained.get(key, "") for key in ("mean", "low", "high")]
                + list(row["paper"] or ("", "", ""))
                + list(row["later"] or ("", ""))
                + [costs.get(key) or "" for key in ("weights", "flops", "speed", "field")]
            )
    return text.getvalue()


def _cells(row: Mapping[str, Any], profiles: Mapping[str, Any]) -> list[str]:
    cells = [row["label"]]
    if row["measured"]:
        m, gained = row["measured"], row["gain"]
        interval = metrics.format_gain(gained) if gained else "–"
        cells += [f"{m['psnr']:.3f}", interval, f"{m['ssim']:.4f}"]
        cells += [f"{m['ssim_gauss']:.4f}", f"{m['psnr_b']:.3f}"]
    else:
        cells += ["–"] * 5
    paper, later = row["paper"], row["later"]
    cells.append(f"{paper[0]:.2f} / {paper[1]:.3f} / {paper[2]:.2f}" if paper else "–")
    cells.append(f"{later[0]:.2f} / {later[1]:.4f}" if later else "–")
    published = later or paper
    compared = published and row["measured"] and row["gain"]
    cells.append(f"{published[0] - row['measured']['psnr']:.2f}" if compared else "–")
    if costs := profiles.get(row["label"]):
        cells += [f"{costs['weights']:,}", f"{costs['flops'] / 1e3:,.0f}"]
        cells += [f"{costs['speed'] / 1e6:.2f}", f"{costs['field'] or '–'}"]
    else:
        cells += ["–"] * 4
    return cells
