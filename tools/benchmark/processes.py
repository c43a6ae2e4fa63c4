"""Runs the benchmark's scripts in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dmcnn_jax

_HERE = Path(__file__).resolve().parent


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns this process's environment, in which scripts find `benchmark` and `dmcnn_jax`.

    Args:
        variables: more variables to set.
    """
    places = [str(_HERE.parent), str(Path(dmcnn_jax.__file__).resolve().parents[1])]
    if inherited := os.environ.get("PYTHONPATH"):
        places.append(inherited)
    return os.environ | {"PYTHONPATH": os.pathsep.join(places)} | dict(variables or {})


def command(script: str, *arguments: Any) -> list[str]:
    """Returns the command line of a script in this folder; its arguments travel as JSON."""
    return [sys.executable, str(_HERE / script), *map(json.dumps, arguments)]


def run_script(script: str, *arguments: Any, variables: Mapping[str, str] | None = None) -> Any:
    """Runs a script in this folder and waits for it.

    Args:
        script: the file's name.
        arguments: passed to it as JSON.
        variables: environment variables to set.

    Returns:
        The last line that it printed, read as JSON.

    Raises:
        RuntimeError: if it failed; with the last line of its standard error.
    """
    done = subprocess.run(
        command(script, *arguments), env=environment(variables), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return json.loads(done.stdout.splitlines()[-1])
