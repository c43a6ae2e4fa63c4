"""Malformed files through the command; `python tests/mutated.py 10000` runs more of them."""

import pytest
from mutated import run


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("allow_truncated", [False, True])
def test_mutated_files_through_the_command(tmp_path, allow_truncated, kind):
    said = run(tmp_path, 100, 1000 + allow_truncated, allow_truncated, kind)
    assert said["restored or decoded"] > 10
