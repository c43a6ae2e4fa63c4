"""Builds the documentation site: python -m sphinx -b html docs docs/_build/html."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import site_pages  # noqa: E402

from dmcnn_jax.version import __version__  # noqa: E402

project = "dmcnn_jax"
author = "the dmcnn_jax authors"
project_copyright = "the dmcnn_jax authors, Apache 2.0"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints", "generated/_*"]

# Pages: Markdown, as it reads on GitHub too. Notebooks are shown, not run: tests run them.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
# Jupyter magics in notebooks are not Python, and two subpackages may each have a class of one name.
suppress_warnings = ["misc.highlighting_failure", "ref.python"]

# Docstrings are in Google's style; a word in single backquotes is code.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shapes"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
# Optional packages that are missing where the site is built.
autodoc_mock_imports = [
    name
    for name in (
        "h5py",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "openvino",
        "starlette",
        "tensorflow",
        "tensorflow_datasets",
        "torch",
        "uvicorn",
    )
    if importlib.util.find_spec(name) is None
]
add_module_names = False
doctest_test_doctest_blocks = "default"

# MathJax, the alternative, is loaded from the network by each page.
_HAS_MATHML = importlib.util.find_spec("latex2mathml") is not None
html_math_renderer = "mathml" if _HAS_MATHML else "mathjax"

html_theme = "sphinx_book_theme"
html_title = "dmcnn_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}


def setup(app):
    """Writes the generated pages, and tidies what autodoc shows of Flax modules."""
    if _HAS_MATHML:
        from site_math import setup_math

        setup_math(app)
    app.connect("builder-inited", lambda app: site_pages.write_all(Path(app.srcdir)))
    app.connect("autodoc-process-signature", site_pages.hide_flax_arguments)
    # Before napoleon, which reads Google's sections.
    app.connect("autodoc-process-docstring", site_pages.tidy_docstring, priority=400)
    app.connect("autodoc-process-docstring", site_pages.join_names, priority=600)
    app.connect("source-read", site_pages.link_notebooks)
