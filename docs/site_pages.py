"""Writes what the site generates from the code: API, commands, configuration, weights, notebooks.

It goes to `docs/generated/`, which git ignores, each time that the site is built. Files whose names
start with an underscore are included by a page of the same name in `docs/`.
"""

import ast
import configparser
import io
import math
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import safetensors
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dmcnn_jax"
COLUMNS = "96"


def write_all(docs: Path) -> None:
    """Writes every generated page below `docs/generated`."""
    folder = docs / "generated"
    folder.mkdir(exist_ok=True)
    pages = api_pages() | {
        "_commands.md": commands_part(),
        "_configuration.md": configuration_part(),
        "_weights.md": weights_part(),
    }
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        _write_if_changed(folder / name, text)
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copyfile(notebook, folder / notebook.name)


def _write_if_changed(path: Path, text: str) -> None:
    """Writes a page, unless it is unchanged: Sphinx then doesn't build it again."""
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


# --- API ------------------------------------------------------------------------------------------


def modules() -> list[str]:
    """Returns the names of all modules of the package that aren't private."""
    found = pkgutil.walk_packages([str(PACKAGE)], "dmcnn_jax.", onerror=lambda name: None)
    return [name for _, name, _ in found if not re.search(r"\._", name)]


def subpackages() -> dict[str, list[str]]:
    """Returns subpackage → its modules, the package itself first; "top" has the others."""
    grouped: dict[str, list[str]] = {}
    for name in modules():
        parts = name.split(".")
        is_subpackage = (PACKAGE / parts[1]).is_dir()
        grouped.setdefault(parts[1] if is_subpackage else "top", []).append(name)
    return grouped


def api_pages() -> dict[str, str]:
    """Returns file name → a page for each subpackage."""
    pages = {}
    for subpackage, names in subpackages().items():
        if subpackage == "top":
            continue
        title = f"dmcnn_jax.{subpackage}"
        sections = [_automodule(name, names) for name in names]
        pages[f"api-{subpackage}.md"] = f"# `{title}`\n\n" + "\n\n".join(sections) + "\n"
    return pages


def _automodule(name: str, names: list[str]) -> str:
    """Returns a module's section, without the names that its package documents already."""
    lines = [f".. automodule:: {name}", "   :members:", "   :show-inheritance:"]
    package = names[0]
    if name == package:
        return _rst(lines)
    exported = _exported_names(package)
    repeated = [member for member, module in exported.items() if module == name]
    text = f"## `{name.removeprefix('dmcnn_jax.')}`\n\n"
    if repeated:
        lines.append(f"   :exclude-members: {', '.join(repeated)}")
        text += f"Documented above: {', '.join(f'`{member}`' for member in repeated)}.\n\n"
    if name.removeprefix(f"{package}.") in exported:
        lines.append("   :no-index:")  # a function of the package has the module's name
    return text + _rst(lines)


def _rst(lines: list[str]) -> str:
    return "\n".join(["```{eval-rst}", *lines, "```"])


def _exported_names(package: str) -> dict[str, str]:
    """Returns name → module that it is imported from, of what a package lists in `__all__`."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    imported = {
        alias.asname or alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    listed: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            listed = ast.literal_eval(node.value)
    return {name: imported[name] for name in listed if name in imported}


# --- Commands -------------------------------------------------------------------------------------


SUBCOMMANDS = {
    "dmcnn-archive": ("plan", "run", "status", "verify"),
    "python tools/gpu_session.py": ("pack", "train"),
}
"""Commands that have commands of their own, each with its help."""


def console_scripts() -> dict[str, str]:
    """Returns command → "module:function", from setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["options.entry_points"]["console_scripts"].strip().splitlines()
    return {name.strip(): target.strip() for name, target in (line.split("=") for line in lines)}


def tools() -> list[str]:
    """Returns the tools that take arguments, files and folders, as one types them."""
    files = [path for path in (ROOT / "tools").glob("*.py") if "argparse" in path.read_text()]
    folders = [path.parent for path in (ROOT / "tools").glob("*/__main__.py")]
    return sorted(str(path.relative_to(ROOT)) for path in files + folders)


def commands_part() -> str:
    """Returns a section for every command, with its own help."""
    programs = {"python -m dmcnn_jax": ["-m", "dmcnn_jax"]}
    for name, target in console_scripts().items():
        module, function = target.split(":")
        call = f"import sys; sys.argv[0] = {name!r}; from {module} import {function} as f; "
        programs[name] = ["-c", call + "sys.exit(f())"]
    programs["python -m dmcnn_jax.main"] = ["-m", "dmcnn_jax.main"]
    programs |= {f"python {tool}": [tool] for tool in tools()}
    programs = {
        f"{name} {command}".rstrip(): [*arguments, command] if command else arguments
        for name, arguments in programs.items()
        for command in ("", *SUBCOMMANDS.get(name, ()))
    }
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(run_help, programs.values()))
    lines = []
    for name, text in zip(programs, texts, strict=True):
        lines.append(f"## `{name}`\n\n```text\n{text}\n```")
    return "\n\n".join(lines) + "\n"


def run_help(arguments: list[str]) -> str:
    """Returns what a Python program prints with `--help`; warns if it prints nothing."""
    environment = os.environ | {"COLUMNS": COLUMNS, "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    command = [sys.executable, *arguments, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if not done.stdout.strip():
        LOGGER.warning("%s printed no help: %s", " ".join(command), done.stderr.strip()[-500:])
    return done.stdout.strip().replace(f"{ROOT}/", "")


# --- Configuration --------------------------------------------------------------------------------


def configuration_part() -> str:
    """Returns every field with its default and the comment that explains it."""
    lines = []
    section = None
    for fields, comment in field_groups((PACKAGE / "config/defaults.py").read_text()):
        name = fields[0][0].rpartition(".")[0]
        if name != section:
            section = name
            lines.append(f"## `{'config.' + name if name else 'config'}`")
        lines.extend(_describe(fields, comment))
    return "\n\n".join(lines) + "\n"


def _describe(fields: list[tuple[str, str, str]], comment: str) -> Iterator[str]:
    """Yields a list of the fields that share a comment, then the comment."""
    items = []
    for name, default, remark in fields:
        default = "unset" if "placeholder" in default else f"`{default}`"
        items.append(f"- `{name}` = {default}" + (f": {remark}" if remark else ""))
    yield "\n".join(items)
    if comment:
        yield comment


def field_groups(source: str) -> Iterator[tuple[list[tuple[str, str, str]], str]]:
    """Yields the fields below each comment, as (name, default, remark beside it), and the comment.

    Args:
        source: `default_config`'s file; `config.train = train = ConfigDict()` begins a section.
    """
    comments = {
        token.start[0]: (token.string.lstrip("# "), not token.line.strip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    tree = ast.parse(source)
    (function,) = (
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "default_config"
    )
    prefixes = {"config": ""}
    group: list[tuple[str, str, str]] = []
    comment, last = "", 0
    for node in function.body:
        if not isinstance(node, ast.Assign):
            continue
        above = []
        line = node.lineno - 1
        while line in comments and not comments[line][1]:
            above.insert(0, comments[line][0])
            line -= 1
        *aliases, target = reversed(node.targets)
        starts_section = "ConfigDict()" in ast.unparse(node.value)
        if group and (above or starts_section or node.lineno > last + 1):
            yield group, comment
            group, comment = [], ""
        if above:
            comment = " ".join(above)
        last = node.end_lineno or node.lineno
        if not isinstance(target, ast.Attribute):
            continue
        owner = prefixes.get(getattr(target.value, "id", ""))
        if owner is None:
            continue
        name = f"{owner}.{target.attr}".lstrip(".")
        if starts_section:
            prefixes |= {alias.id: name for alias in aliases if isinstance(alias, ast.Name)}
            # A comment above a section is that of its first field.
            continue
        remark = " ".join(
            comments[i][0]
            for i in range(node.lineno, (node.end_lineno or node.lineno) + 1)
            if i in comments and comments[i][1]
        )
        group.append((name, _literal(source, node.value), remark))
    if group:
        yield group, comment


def _literal(source: str, node: ast.expr) -> str:
    """Returns a default as the file writes it, on one line."""
    return " ".join((ast.get_source_segment(source, node) or ast.unparse(node)).split())


# --- Weights --------------------------------------------------------------------------------------


def weights_part() -> str:
    """Returns a table of the bundled networks, and their cards one after the other."""
    files = sorted((PACKAGE / "weights").glob("*.safetensors"))
    cards = [file.with_suffix(".md").read_text().strip() for file in files]
    lines = ["| network | for | file, MB | weights | LIVE1, dB | 12 megapixels |"]
    lines.append("| --- | --- | ---: | ---: | --- | --- |")
    lines += [_weights_row(file, card) for file, card in zip(files, cards, strict=True)]
    sections = [re.sub(r"^# ", "## ", card, flags=re.M) for card in cards]
    return "\n".join(lines) + "\n\n" + "\n\n".join(sections) + "\n"


def _weights_row(file: Path, card: str) -> str:
    """Returns a row of the table: size and weights from the file, the measured from its card."""
    with safetensors.safe_open(file, "np") as weights:
        shapes = [weights.get_slice(key).get_shape() for key in weights.keys()]  # noqa: SIM118
    number, size = sum(map(math.prod, shapes)), file.stat().st_size / 1e6
    purpose = re.split(r"[.,:]( |$)", card.splitlines()[2])[0]
    scores = _card_cell(card, "LIVE1 in colour") or _live1_scores(card)
    cells = [f"[`{file.stem}`](#{file.stem})", purpose, f"{size:.2f}", f"{number:,}", scores]
    return f"| {' | '.join([*cells, _card_cell(card, '12 megapixels, colour')])} |"


def _card_cell(card: str, name: str) -> str:
    """Returns what a card says of `name`, up to a semicolon; empty if it says nothing."""
    found = re.search(rf"^\| {name} \| ([^;|]*)", card, re.M)
    return found[1].strip() if found else ""


def _live1_scores(card: str) -> str:
    """Returns the PSNR on LIVE1 at qualities 10 and 20, projected where that was measured."""
    row = r"^\| LIVE1, 29 images \| (10|20) \| (?!JPEG)[^|]+ \| ([\d.]+) "
    scores = dict(re.findall(row, card, re.M))  # the last row of a quality is the projected one
    return "<br>".join(f"{quality}: {psnr}" for quality, psnr in scores.items())


# --- Docstrings -----------------------------------------------------------------------------------


def hide_flax_arguments(app, what, name, obj, options, signature, returns):
    """Takes the arguments that Flax adds to every module out of its signature."""
    if what == "class" and signature:
        signature = re.sub(r",?\s*parent(: [^=]+)? ?= ?<[^>]*>", "", signature)
        signature = re.sub(r",?\s*name(: [^=]+)? ?= ?None(?=\))", "", signature)
    return signature, returns


def tidy_docstring(app, what, name, obj, options, lines):
    """Turns a docstring as this package writes it into reStructuredText.

    Indented blocks after a blank line are equations, tables or commands: they become literal.
    Outside of them, bars and stars are characters, and a plural may follow a word in backquotes.
    """
    tidied: list[str] = []
    literal = False
    outer = ""  # the last line without indentation
    for line in lines:
        if line.strip() and not line.startswith(" "):
            literal, outer = False, line
        starts_block = line.startswith("    ") and tidied and not tidied[-1].strip()
        if starts_block and not literal and not _SECTION.fullmatch(outer):
            literal = True
            if not outer.endswith("::"):
                tidied += [".. code-block:: text", ""]
        tidied.append(line if literal else _escape(line))
    lines[:] = tidied


# A heading of a docstring's section, or the start of a list item.
_SECTION = re.compile(r"(Args|Attributes|Examples?|Notes?|Raises|Returns|Yields|Shapes):|[-*] .*")


def _escape(line: str) -> str:
    """Escapes what reStructuredText would take for markup, outside of code."""
    parts = re.split(r"(``.*?``|`[^`]+`|\*\*[^*]+\*\*)", line)
    for i, part in enumerate(parts):
        if i % 2:
            continue
        part = re.sub(r"(?<!\\)([|*])(?!\s|$)", r"\\\1", part)
        # RST wants a break between code and a letter.
        parts[i] = "\\ " + part if i and re.match(r"\w", part) else part
    return "".join(parts)


def join_names(app, what, name, obj, options, lines):
    """Keeps names that share a description ("height, width: …") from reading as type and name."""
    shared = re.compile(r":(ivar|param) (\w+(?:, \w+)+):")
    for i, line in enumerate(lines):
        lines[i] = shared.sub(lambda m: f":{m[1]} {m[2].replace(', ', ',')}:", line)


def link_notebooks(app, name, source):
    """Leads links to notebooks, which work in a checkout, to the site's copies."""
    source[0] = source[0].replace("](../notebooks/", "](generated/")
