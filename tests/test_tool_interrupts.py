"""Ctrl-C ends the maintainers' scripts with one line, and the status that shells give it."""

import runpy

import pytest
from runs import CHECKOUT


@pytest.mark.parametrize(
    ("script", "work", "arguments"),
    [
        ("fingerprint.py", "restored_pictures", []),
        ("export_params.py", "import_model", ["dmcnn-qf10", "-o", "model.npz"]),
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
