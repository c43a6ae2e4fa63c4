"""Self-contained HTML pages, which load nothing and have no inline event handlers.

Their parts are in `static/`: `base` (fonts, colours, dark mode), `compare` (the slider between
pictures, a custom element), `gallery` and `serve` (one page each).
"""

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib import resources


def policy(styles: str, script: str, **sources: str) -> str:
    """Returns a Content-Security-Policy that allows only one style sheet and one script.

    Args:
        styles: the text of the only <style> element.
        script: the text of the only <script> element.
        sources: more directives, with _ instead of -, such as `img_src="data:"`.

    Returns:
        The policy's text (W3C, Content Security Policy Level 3).
    """
    directives = {
        "default-src": "'none'",
        "style-src": _hash(styles),
        "script-src": _hash(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    } | {name.replace("_", "-"): value for name, value in sources.items()}
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def page(title: str, body: str, parts: Sequence[str], **sources: str) -> tuple[str, str]:
    """Returns a complete page.

    Args:
        title: of the page, plain text.
        body: HTML of the body.
        parts: names of files in `static/` to include, in order: "compare" stands for compare.css
            and compare.js; either may be missing.
        sources: more directives for `policy`.

    Returns:
        The page's HTML, and the policy in its <meta> element, to be sent as a header too.
    """
    styles = "".join(part(f"{name}.css") for name in parts)
    script = "".join(part(f"{name}.js") for name in parts)
    rules = policy(styles, script, **sources)
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(rules)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{styles}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""
    return text, rules


def escape(text: str) -> str:
    """Returns plain text as HTML; undecodable bytes of file names become question marks."""
    return html.escape(text.encode(errors="replace").decode())


def data_uri(kind: str, data: bytes) -> str:
    """Returns the data: URI of an image file; `kind` is "png" or "webp"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def part(name: str) -> str:
    """Returns the text of a file in `static/`, or an empty string if there is none."""
    file = resources.files("dmcnn_jax.web") / "static" / name
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _hash(text: str) -> str:
    """Returns the source expression by which a policy allows an inline element with this text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
