"""The compilation cache of the commands."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PROGRAM = """
import jax, jax.numpy as jnp
from dmcnn_jax.system import compile_cache
compile_cache.MIN_COMPILE_SECONDS = 0
print(compile_cache.enable_compilation_cache())
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
"""


def run(environment, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONPATH": str(CHECKOUT), "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)}
        | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def files(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*-cache")}


def test_is_kept_in_the_users_cache_folder_and_found_again(tmp_path):
    run({}, tmp_path)
    first = files(tmp_path / ".cache" / "dmcnn_jax")
    again = run({}, tmp_path)
    assert first
    assert files(tmp_path / ".cache" / "dmcnn_jax") == first
    assert again.stderr == ""


@pytest.mark.parametrize("name", ["DMCNN_JAX_CACHE", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"])
def test_folder_can_be_named(name, tmp_path):
    run({name: str(tmp_path / "there")}, tmp_path)
    assert (tmp_path / "there").exists()
    assert not (tmp_path / ".cache").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders")
def test_the_folder_is_where_earlier_versions_had_it(tmp_path):
    for environment, home in (({}, ".cache"), ({"XDG_CACHE_HOME": f"{tmp_path}/xdg"}, "xdg")):
        folder = Path(run(environment, tmp_path).stdout.strip())
        assert folder.parent == tmp_path / home / "dmcnn_jax"
        assert folder.name.startswith("compiled-")


@pytest.mark.parametrize("value", ["", "/dev/null/nowhere"])
def test_nothing_is_kept_where_it_should_or_can_not(value, tmp_path):
    assert run({"DMCNN_JAX_CACHE": value}, tmp_path).stdout == "None\n"
    assert not (tmp_path / ".cache").exists()
