"""Where the files lie that come with the package."""

from pathlib import Path

BUNDLED = Path(__file__).parents[1] / "weights"
"""Folder of the bundled weights files and their cards."""
