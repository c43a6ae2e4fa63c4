"""Builds the package; its configurations are those of configs/, which lie beside it in a clone."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies configs/ into the package that is built, so that it trains without a clone."""

    def run(self):
        """Builds as usual, and copies the configurations; an editable package uses the clone's."""
        super().run()
        if self.editable_mode:
            return
        for source in Path("configs").rglob("*.py"):
            target = Path(self.build_lib, "dmcnn_jax", source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


setup(cmdclass={"build_py": BuildWithConfigs})
