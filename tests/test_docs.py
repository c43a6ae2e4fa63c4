"""Commands, links, Python blocks and lists in the documentation name what exists."""

import ast
import configparser
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = [
    path
    for path in ROOT.glob("docs/**/*.md")
    if not {"_build", "generated"} & set(path.relative_to(ROOT / "docs").parts)
]
PAGES = sorted([*ROOT.glob("*.md"), *DOCS, *ROOT.glob("dmcnn_jax/weights/*.md")])
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
CONFIGS = sorted(ROOT.glob("configs/**/*.py"))
TOOLS = sorted(ROOT.glob("tools/*.py"))


def commands(text, markdown=True):
    """Words of the commands in a page, or in a docstring, that are ours or install us."""
    if markdown:
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
        text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        blocks += re.findall(r"^    \S.*$", text, re.M)
        blocks += re.findall(r"(?<!`)`([^`]+)`(?!`)", text)
    else:
        blocks = [text]
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        # Without comments, and without what a column of explanations says.
        line = re.split(r"\s#\s|(?<=\S)\s{3,}", line.strip())[0]
        for command in re.split(r"&+|[;|]", line):
            command = re.sub(r"^\s*(srun|\w+=\S+)\s+", "", command).strip()
            if re.match(r"(python|dmcnn-[a-z]+|pip|\.ci/\w+)(\s|$)", command):
                # A quote that is not closed is that of a command that this is a part of.
                yield shlex.split(command.rstrip('"') if command.count('"') % 2 else command)


def flags(words):
    return [word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)]


def check(words):
    """Asserts that a command could be typed in a checkout."""
    if words[0].startswith(".ci/"):
        assert (ROOT / words[0]).is_file()
    elif words[0] == "pip":
        check_installation(words)
    elif words[0].startswith("dmcnn-"):
        # A bundled network by itself is checked below.
        if len(words) > 1 or words[0] in console_scripts():
            check_flags(words, command_source(words[0]))
    elif words[1] == "-m" and words[2].startswith("dmcnn_jax"):
        name = words[2].replace(".", "/")
        file = f"{name}/__main__.py" if name == "dmcnn_jax" else f"{name}.py"
        assert (ROOT / file).is_file()
        if words[2] == "dmcnn_jax.main":
            check_training(words)
        else:
            check_flags(words[3:], file)
    elif words[1] == "-m":
        assert words[2] in ("pytest", "venv", "build", "sphinx")
        for word in words[3:]:
            assert not word.startswith("tests/") or (ROOT / word).is_file()
    elif words[1].startswith("tools/"):
        check_flags(words[2:], words[1])
    if words[0] != "pip":
        for word in words:
            check_weights(word)


def command_source(name):
    """The file that a console script's arguments are defined in."""
    modules = console_scripts()
    assert name in modules, f"no command {name}"
    file = modules[name].replace(".", "/") + ".py"
    return "dmcnn_jax/cli/restore_arguments.py" if name == "dmcnn-restore" else file


def console_scripts():
    """Command → module, from setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    scripts = parser["options.entry_points"]["console_scripts"]
    return dict(re.findall(r"(\S+) = (\S+):main", scripts))


def check_flags(words, file):
    source = source_of(ROOT / file)
    if file == "dmcnn_jax/cli/archive.py":  # it shares the options of restoring
        source += source_of(ROOT / "dmcnn_jax/cli/restore_arguments.py")
    for flag in flags(words):
        # Some are made in a loop over their names.
        known = f'"{flag}"' in source or f'"{flag.lstrip("-")}"' in source
        assert known, f"{file} has no {flag}"


def source_of(path):
    """The text of a script, or of all files of a tool that is a folder."""
    if path.is_dir():
        assert (path / "__main__.py").is_file(), f"{path} can't be run"
        return "".join(file.read_text() for file in sorted(path.glob("**/*.py")))
    # A tool may have become a folder, or be about to.
    path = path if path.suffix else path.with_suffix(".py")
    assert path.is_file(), f"no {path}"
    return path.read_text()


def check_weights(word):
    """A bundled name; {q} stands for 10 and 20."""
    if re.fullmatch(r"(\w+=)?dmcnn-[\w{}-]+", word) and word not in console_scripts():
        name = word.split("=")[-1]
        for quality in (10, 20):
            name = name.replace("{q}", str(quality))
            assert (ROOT / f"dmcnn_jax/weights/{name}.safetensors").is_file(), name


def check_installation(words):
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    for word in words:
        if extras := re.fullmatch(r"(?:\.|dmcnn-jax)\[([\w,]+)\]", word):
            for extra in extras[1].split(","):
                assert parser.has_option("options.extras_require", extra), extra


def check_training(words):
    pytest.importorskip("ml_collections", reason="ml_collections is not installed: extra 'train'")
    from dmcnn_jax.config import default_config
    from dmcnn_jax.config.files import load_config, set_fields
    from dmcnn_jax.config.validation import validate_config

    source = (ROOT / "dmcnn_jax/main.py").read_text()
    config = default_config()
    joined = " ".join(words[3:])
    for name in re.findall(r"--config[ =]([^\s.]+\.py\S*)", joined):
        path, _, argument = name.partition(":")
        # What the page on adding a model has its reader write.
        assert (ROOT / path).is_file() or path == "configs/plain.py", path
        if path != "configs/plain.py":
            config = load_config(f"{ROOT / path}:{argument}" if argument else str(ROOT / path))
    for flag in flags(words[3:]):
        if flag.startswith("--config."):
            value = config
            for field in flag.removeprefix("--config.").split("."):
                assert field in value, f"no {flag}"
                value = value[field]
        elif flag not in ("--config", "--help"):
            assert f'"{flag.removeprefix("--")}"' in source, f"no {flag}"
    set_fields(
        config, [w.removeprefix("--config.") for w in words[3:] if re.match(r"--config\..+=", w)]
    )
    validate_config(config)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_in_pages(path):
    for words in commands(path.read_text()):
        check(words)


@pytest.mark.parametrize("path", [*CONFIGS, *TOOLS], ids=lambda path: path.name)
def test_commands_in_docstrings(path):
    docstring = re.search(r'"""(.*?)"""', path.read_text(), re.S)[1]
    for words in commands(docstring, markdown=False):
        check(words)


def test_commands_are_found():
    """That the tests above look at something."""
    found = [words for path in PAGES for words in commands(path.read_text())]
    assert len(found) > 40
    assert ["python", "-m", "dmcnn_jax.main", "--config", "configs/quickstart.py"] in found


@pytest.mark.parametrize(
    "command",
    [
        "python tools/none.py",
        "python -m dmcnn_jax.none",
        "dmcnn-restore --no-such-flag",
        "python -m dmcnn_jax.main --config configs/none.py",
        "python -m dmcnn_jax.main --config configs/qf20.py --config.train.none=3",
        "python -m dmcnn_jax.main --config configs/qf20.py --config.train.patch_sizes=(12,)",
        "python -m dmcnn_jax.main --config configs/arcnn.py:none",
        "dmcnn-evaluate --weights dmcnn-none --images DIR",
        'pip install "dmcnn-jax[none]"',
    ],
)
def test_commands_that_do_not_exist_are_noticed(command):
    with pytest.raises((AssertionError, ValueError)):
        for words in commands(command, markdown=False):
            check(words)


def test_the_http_interface_has_every_parameter():
    from dmcnn_jax.web.choices import PARAMETERS

    page = (ROOT / "docs/http-interface.md").read_text()
    request = page.split("## Request")[1].split("## Answer")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", request, re.M)) == {*PARAMETERS, "report"}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def python_blocks(path):
    """Python in a page's fences, or in a notebook's cells."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        return [re.sub(r"^(\s*)[!%].*$", r"\1pass", text, flags=re.M) for text in code]
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_python_compiles_and_imports_what_exists(path):
    for text in python_blocks(path):
        text = textwrap.dedent(text)
        # An entry of a dictionary is shown by itself.
        tree = ast.parse("{" + text + "}" if re.match(r'"\w+": ', text) else text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "dmcnn_jax":
                for name in node.names:
                    check_import(node.module, name.name)


def check_import(module, name):
    try:
        spec = importlib.util.find_spec(f"{module}.{name}")
    except ModuleNotFoundError:
        spec = None
    if not spec:
        spec = importlib.util.find_spec(module)
        assert spec, f"no module {module}"
        assert re.search(rf"\b{name}\b", Path(spec.origin).read_text()), f"no {module}.{name}"


def site_pages():
    """What writes the generated pages of the site."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed: extra 'docs'")
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs/site_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_module():
    pages = "".join(site_pages().api_pages().values())
    documented = set(re.findall(r"automodule:: (\S+)", pages))
    files = [path.relative_to(ROOT).with_suffix("") for path in ROOT.glob("dmcnn_jax/*/**/*.py")]
    modules = {".".join(file.parts).removesuffix(".__init__") for file in files}
    assert documented == {name for name in modules if "._" not in name}


def test_the_reference_has_every_setting():
    pytest.importorskip("ml_collections", reason="ml_collections is not installed: extra 'train'")
    from dmcnn_jax.config import default_config

    def names(config, prefix=""):
        for key, value in config.items():
            if hasattr(value, "items"):
                yield from names(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    page = site_pages().configuration_part()
    assert set(re.findall(r"^- `([\w.]+)` = ", page, re.M)) == set(names(default_config()))


def test_the_reference_runs_every_command():
    pages = site_pages()
    assert sorted(pages.console_scripts()) == sorted(console_scripts())
    text = pages.run_help(["-m", "dmcnn_jax"])
    assert text.startswith("usage: python -m dmcnn_jax") and str(ROOT) not in text


def test_the_table_of_networks_has_what_files_and_cards_hold():
    safetensors = pytest.importorskip("safetensors.numpy")
    rows = [line for line in site_pages().weights_part().splitlines() if line.startswith("| [`")]
    files = sorted((ROOT / "dmcnn_jax/weights").glob("*.safetensors"))
    assert len(rows) == len(files) >= 8
    for row, path in zip(rows, files, strict=True):
        weights = sum(array.size for array in safetensors.load_file(path).values())
        assert f"[`{path.stem}`]" in row and f" {weights:,} " in row
        assert f" {path.stat().st_size / 1e6:.2f} " in row
    (ten,) = (row for row in rows if "`dmcnn-qf10`" in row)
    assert "| 10: 29.356 |" in ten
    (every,) = (row for row in rows if "`dmcnn-any`" in row)
    assert "| 10: 29.223<br>20: 31.599 | 16 s, OpenVINO in bfloat16 |" in every


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_its_examples_are_right(tmp_path):
    for package in ("myst_nb", "sphinx_book_theme"):
        pytest.importorskip(package, reason=f"{package} is not installed: extra 'docs'")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    for builder in ("html", "doctest"):  # the second needn't read the pages again
        folders = ["-d", tmp_path / "doctrees", ROOT / "docs", tmp_path / builder]
        done = subprocess.run(
            [*command, "-b", builder, *folders], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
    for page, heading in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", text):
        assert heading in headings(path.parent / page if page else path), f"{page}#{heading}"


def headings(path):
    """The anchors of a page's headings, as GitHub and the site make them."""
    found = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


def test_the_models_page_can_be_followed(monkeypatch):
    """Its network, as it stands there, does what the page says."""
    import sys
    import types

    import jax
    import numpy as np

    from dmcnn_jax import jpeg, models
    from dmcnn_jax.evaluation.complexity import count_weights
    from dmcnn_jax.inference.variables import initialize

    page = (ROOT / "docs/adding-a-model.md").read_text()
    network, line, config = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    module = types.ModuleType("dmcnn_jax.models.plain")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(network, module.__dict__)
    monkeypatch.setitem(models.MODELS, *eval("{" + line + "}").popitem())
    plain = models.create_model({"name": "plain"})
    variables = initialize(plain, jax.random.key(0))
    assert f"{count_weights(variables['params']):,} weights" in module.__doc__
    table = np.broadcast_to(np.asarray(jpeg.quality_table(10)), (1, 8, 8))
    k = np.zeros((1, 3, 4, 64), np.int32)
    assert plain.apply(variables, k, table)["image"].shape == (1, 24, 32, 1)
    pytest.importorskip("ml_collections", reason="ml_collections is not installed: extra 'train'")
    namespace = {}
    exec(config, namespace)
    assert models.create_model(namespace["get_config"]().model).features == 64


def test_the_files_of_the_models_page_pass_ruff():
    """They pass the checks of CONTRIBUTING.md in the folders where the page puts them."""
    ruff = shutil.which(
        "ruff", path=os.pathsep.join((str(Path(sys.executable).parent), os.defpath))
    )
    if not ruff:
        pytest.skip("ruff is not installed: extra 'test'")
    network, _, config = python_blocks(ROOT / "docs/adding-a-model.md")
    for text, name in (network, "dmcnn_jax/models/plain.py"), (config, "configs/plain.py"):
        for command in (["check"], ["format", "--check"]):
            command = [ruff, *command, "--stdin-filename", name, "-"]
            done = subprocess.run(command, input=text, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
