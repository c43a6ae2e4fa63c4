"""Malformed files through the command; `python tests/campaign.py` runs more of them."""

import pytest
from mutated import FORMATS, restore, restore_and_undo
from warm_commands import WarmCommands


@pytest.fixture(scope="module")
def commands():
    """Runs commands quickly."""
    running = WarmCommands()
    yield running
    running.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PNG", "restored JPEG"])
def test_mutated_files_through_the_command(tmp_path, commands, name):
    run, wrong = restore(commands, tmp_path, 100, 1001, FORMATS[name])
    assert not wrong
    assert run.said.count(f"{tmp_path / 'out'}") > 10


@pytest.mark.slow
def test_mutated_files_in_place_and_back(tmp_path, commands):
    assert not restore_and_undo(commands, tmp_path, 50, 1003, "inside")[1]
