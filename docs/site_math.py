"""Writes equations as MathML, which browsers show without a script and without a connection."""

from docutils import nodes
from latex2mathml.converter import convert


def setup_math(app):
    """Adds the renderer "mathml" for HTML."""
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))


def _visit_inline(translator, node):
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _visit_block(translator, node):
    translator.body.append(f'<div class="equation">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode
