"""Ctrl-C ends the maintainers' scripts with one line, and the status that shells give it."""

import os
import runpy
import subprocess
import sys

import pytest
from runs import CHECKOUT

SCRIPTS = sorted(
    str(path.relative_to(CHECKOUT))
    for path in (*CHECKOUT.glob("tools/*.py"), *CHECKOUT.glob("tools/benchmark/*.py"))
    if "command_parser(" in (text := path.read_text()) or "def main(argv" in text
)

# Runs each script in a fork of one process: its first import of what is slow is interrupted.
RUN = """
import importlib.abc, os, runpy, signal, sys
SLOW = {"jax", "numpy", "PIL", "skimage", "tqdm"}

class Interrupter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in SLOW:
            print("slow", flush=True)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
for script in sys.argv[1:]:
    print(script, flush=True)
    print(script, file=sys.stderr, flush=True)
    child = os.fork()
    if not child:
        sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
        runpy.run_path(script, run_name="__main__")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX")
def test_an_interrupt_of_the_imports_is_one_line():
    scripts = [*SCRIPTS, "tools/benchmark/__main__.py"]
    assert len(scripts) > 20
    done = subprocess.run(
        [sys.executable, "-c", RUN, *scripts],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    said = done.stderr
    for script in scripts:
        shown = done.stdout.partition(f"{script}\n")[2]
        if shown.startswith("slow\n"):
            name = os.path.basename(script).removesuffix(".py").replace("__main__", "benchmark")
            assert shown.startswith("slow\n130\n"), script
            assert said.count(f"{script}\n\n{name}: interrupted\n") == 1, script
    assert "Traceback" not in said and said.count("\n") <= 3 * len(scripts)


@pytest.mark.parametrize(
    ("script", "work", "arguments"),
    [
        ("fingerprint.py", "restored_pictures", []),
        ("export_params.py", "import_model", ["dmcnn-qf10", "-o", "model.npz"]),
        ("train_recipe.py", "_train", ["recipe", "--source", "packaged", "-o", "out"]),
        ("decoded_pictures.py", "print_measures", []),
        ("benchmark/many_files.py", "_make_files", []),
    ],
)
def test_an_interrupt_is_one_line(script, work, arguments, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    main = runpy.run_path(str(CHECKOUT / "tools" / script))["main"]
    monkeypatch.setitem(main.__globals__, work, interrupt)
    assert main(arguments) == 130
    assert capsys.readouterr().err.endswith(": interrupted\n")
