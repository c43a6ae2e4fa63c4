"""The HTML of a gallery."""

import base64
import json
import math
from collections.abc import Sequence

from dmcnn_jax.images import metrics
from dmcnn_jax.web.entries import HEADINGS, Entry, gain, in_order, measure_names
from dmcnn_jax.web.page import escape

PAGE_BYTES, ENTRY_BYTES = 2**16, 2**12
"""Upper bounds of the bytes of a page without its entries, and of an entry without its pictures
(and a very long name)."""

_ORDERS_OF_GAIN = {
    "ends": "Worst and best in turn",
    "rising": "Worst first",
    "falling": "Best first",
    "name": "By name",
}

_ORDERS_OF_CHANGE = {
    "falling": "Most changed first",
    "rising": "Least changed first",
    "name": "By name",
}


def gallery_body(title: str, about: str, entries: Sequence[Entry], max_bytes: int) -> str:
    """Returns the body of a gallery's page.

    Args:
        title: of the page, plain text.
        about: a line below the title, plain text.
        entries: all of them; those without pictures have only their figures shown.
        max_bytes: the size limit for which pictures were left out.
    """
    ordered = in_order(entries)
    shown = [entry for entry in ordered if entry.pictures]
    left_out = len(ordered) - len(shown)
    note = (
        f'<p class="faint small">{left_out} of {len(ordered)} pictures are left out, from the '
        f"middle of the order, to keep this file below {max_bytes / 2**20:.4g} MB.</p>"
        if left_out
        else ""
    )
    return f"""<header>
<h1>{escape(title)}</h1>
<p class="faint">{escape(about)}</p>
{note}
<div class="summary">{_means(ordered)}
<p class="hint small faint">Drag on a picture, or the slider below it; with the keyboard, Tab to the
slider, then arrow keys, Page Up and Down, Home and End. 1×, 2× and 4× show pixels as they are; the
enlarged picture scrolls.</p></div>
<noscript><p>Without JavaScript, pictures stand one below the other.</p></noscript>
</header>
{_toolbar(ordered)}
<p id="said" class="unseen" role="status"></p>
<main id="pictures">
{"".join(_article(entry, place) for place, entry in enumerate(shown))}
</main>
{_all_figures(ordered)}
"""


def _toolbar(entries: Sequence[Entry]) -> str:
    measures = measure_names(entries)
    orders = _ORDERS_OF_CHANGE if "change" in measures else _ORDERS_OF_GAIN
    options = "".join(f'<option value="{key}">{text}</option>' for key, text in orders.items())
    by = "".join(
        f'<option value="{_dataset_key(key)}">{escape(name)}</option>'
        for key, name in measures.items()
    )
    return f"""<div class="toolbar" hidden>
<label>Order <select id="order">{options}</select></label>
<label>By <select id="by">{by}</select></label>
</div>"""


def _article(entry: Entry, place: int) -> str:
    height, width = entry.shown
    name = escape(entry.name)
    # Pictures further down are decoded when the reader scrolls to them.
    loading = "" if place < 3 else ' loading="lazy"'
    figures = "".join(
        f'<figure><img src="{uri}" width="{width}" height="{height}" alt="{name}, {label}"'
        f' decoding="async"{loading}><figcaption>{label}</figcaption></figure>'
        for label, uri in entry.pictures.items()
    )
    values = "".join(
        f' data-{key.replace("_", "-")}="{_number(v)}"' for key, v in entry.values.items()
    )
    size = f"{entry.size[1]} × {entry.size[0]}"
    if entry.size != entry.shown:
        size += f", the middle {width} × {height} shown"
    return f"""<article id="{_anchor(entry)}" data-name="{name}"{values}>
<header><h2>{name}</h2><span class="small faint">{size}</span></header>
<image-compare name="{name}">{figures}</image-compare>
<aside>{_figures_table(entry)}</aside>
</article>
"""


def _figures_table(entry: Entry) -> str:
    figures = entry.figures
    if figures is None:
        change = entry.values["change"]
        return f"<p>Changed by {change:.2f} levels of 255 (root mean square).</p>"
    rows = "".join(
        f'<tr><th scope="row">{escape(HEADINGS.get(key, key))}</th>'
        f"<td>{_figure(figures['jpeg'][key], key)}</td>"
        f"<td>{_figure(figures['model'][key], key)}</td>{_gain_cell(entry.values[key], key)}"
        "</tr>"
        for key in entry.values
    )
    return (
        f'<table><caption class="unseen">Figures of {escape(entry.name)}</caption><thead><tr>'
        '<th scope="col"><span class="unseen">Measure</span></th><th scope="col">JPEG</th>'
        f'<th scope="col">Restored</th><th scope="col">Gain</th></tr></thead>{rows}</table>'
    )


def _means(entries: Sequence[Entry]) -> str:
    """Returns the table of means over all entries; "" if they have no figures."""
    figures = [entry.figures for entry in entries if entry.figures is not None]
    if not figures:
        return ""
    means = {key: metrics.mean([each[key] for each in figures]) for key in ("jpeg", "model")}
    rows = ""
    for key, label in (("jpeg", "JPEG"), ("model", "Restored")):
        cells = "".join(f"<td>{_figure(v, m)}</td>" for m, v in means[key].items())
        rows += f'<tr><th scope="row">{label}</th>{cells}</tr>'
    cells = "".join(_gain_cell(gain(means, m), m) for m in means["model"])
    rows += f'<tr><th scope="row">Gain</th>{cells}</tr>'
    heads = "".join(f'<th scope="col">{escape(HEADINGS.get(m, m))}</th>' for m in means["model"])
    return (
        f'<div class="wide"><table class="means"><caption class="small faint">Means over '
        f"{len(entries)} pictures</caption><thead><tr><td></td>{heads}</tr></thead>{rows}"
        "</table></div>"
    )


def _all_figures(entries: Sequence[Entry]) -> str:
    """Returns the table of every picture's figures; "" if they have none."""
    if entries[0].figures is None:
        return ""
    measures = list(entries[0].values)
    heads = "".join(
        f'<th scope="col">{escape(HEADINGS.get(m, m))}</th><th scope="col">gain</th>'
        for m in measures
    )
    rows = "".join(
        _figures_row(entry, measures) for entry in sorted(entries, key=lambda entry: entry.name)
    )
    return (
        f"<details><summary>Figures of all {len(entries)} pictures</summary>"
        f'<div class="wide"><table><thead><tr><th scope="col">Picture</th>{heads}</tr></thead>'
        f"{rows}</table></div></details>"
    )


def _figures_row(entry: Entry, measures: Sequence[str]) -> str:
    figures = entry.figures
    assert figures is not None  # either all entries have figures or none
    cells = "".join(
        f"<td>{_figure(figures['model'][m], m)}</td>{_gain_cell(entry.values[m], m)}"
        for m in measures
    )
    return f'<tr><th scope="row">{_link(entry)}</th>{cells}</tr>\n'


def _link(entry: Entry) -> str:
    """Returns the name, linked to the picture if it is shown."""
    name = escape(entry.name)
    return f'<a href="#{_anchor(entry)}">{name}</a>' if entry.pictures else name


def _anchor(entry: Entry) -> str:
    """Returns an element id that is unique to a name, whatever its characters."""
    name = entry.name.encode(errors="surrogatepass")
    return "picture-" + base64.urlsafe_b64encode(name).decode().rstrip("=")


def _figure(value: float, measure: str, sign: str = "") -> str:
    """Formats a measure, finite, infinite or missing, with a real minus sign."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    digits = 4 if measure.startswith("ssim") else 2
    return f"{value:{sign}.{digits}f}".replace("-", "−")


def _gain_cell(value: float, measure: str) -> str:
    text = _figure(value, measure, "+")
    if math.isnan(value):
        return f"<td>{text}</td>"
    return f'<td class="{"gain" if value >= 0 else "loss"}">{text}</td>'


def _number(value: float) -> str:
    """Formats a number such that JavaScript's Number() can parse it."""
    return json.dumps(value)


def _dataset_key(measure: str) -> str:
    """Returns the dataset property that holds a measure, such as psnrB for data-psnr-b."""
    first, *rest = measure.split("_")
    return first + "".join(word.capitalize() for word in rest)
