"""Folders of the files that come with the package."""

from pathlib import Path

BUNDLED = Path(__file__).parents[1] / "weights"
"""Folder of the bundled weights files and their cards."""

_INSTALLED = Path(__file__).parents[1] / "configs"

CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "configs"
"""Folder of the configurations: inside an installed package, beside the package in a clone."""
