"""HTML pages that need nothing but themselves: no other file, no network, no inline handlers.

Beside this file lie their parts: `base` (type, colours, dark mode), `compare` (the slider between
pictures, an HTML element of its own), `gallery` and `serve` (one page each).
"""

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib import resources


def policy(styles: str, script: str, **sources: str) -> str:
    """A Content-Security-Policy under which one style sheet and one script run, and nothing else.

    Args:
        styles: the text of the only <style> element.
        script: the text of the only <script> element.
        sources: more directives, with _ for -: `img_src="data:"`.

    Returns:
        The policy (W3C, Content Security Policy Level 3).
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
    """A whole page.

    Args:
        title: its title, plain text.
        body: HTML of its body.
        parts: which files beside this one it is styled and run by, in order: "compare" stands for
            compare.css and compare.js, of which one may be missing.
        sources: as of `policy`.

    Returns:
        The page, and the policy that it states, for a header that says the same.
    """
    styles = "".join(part(f"{name}.css") for name in parts)
    script = "".join(part(f"{name}.js") for name in parts)
    rules = policy(styles, script, **sources)
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{html.escape(rules)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{styles}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""
    return text, rules


def data_uri(kind: str, data: bytes) -> str:
    """An image file ("png", "webp") as an address that is the file itself."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def part(name: str) -> str:
    """Returns the text of a file in `static`, or an empty string if there is none."""
    file = resources.files("dmcnn_jax.web") / "static" / name
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
