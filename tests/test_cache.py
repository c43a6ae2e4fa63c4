"""The compilation cache of the commands."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from dmcnn_jax.system import compile_cache

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


@pytest.fixture
def settings(monkeypatch):
    """Lets a test enable the cache in this process."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    yield monkeypatch
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_to_is_not_used(settings, tmp_path, capsys, mode):
    settings.setenv("DMCNN_JAX_CACHE", str(tmp_path))
    folder = compile_cache.enable_compilation_cache()
    assert folder is not None and folder.stat().st_mode & 0o777 == 0o700
    jax.config.update("jax_compilation_cache_dir", None)
    folder.chmod(mode)
    assert compile_cache.enable_compilation_cache() is None
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"{str(folder)!r} is not used: others can write to it (mode {mode:o}; chmod go" in line
    assert jax.config.jax_compilation_cache_dir != str(folder)


def test_a_folder_of_another_user_is_not_used(settings, tmp_path, capsys):
    settings.setenv("DMCNN_JAX_CACHE", str(tmp_path))
    mine = os.getuid()
    settings.setattr(os, "getuid", lambda: mine + 1)
    assert compile_cache.enable_compilation_cache() is None
    line = capsys.readouterr().err
    assert f"is not used: it belongs to another user (number {mine}); set DMCNN" in line


@pytest.mark.parametrize("named", [None, "~/cache"])
def test_without_a_home_folder_nothing_is_kept(settings, named):
    # As for a user without an entry among the users of the system.
    settings.setattr(os.path, "expanduser", str)
    settings.delenv("XDG_CACHE_HOME", raising=False)
    settings.delenv("DMCNN_JAX_CACHE")
    if named:
        settings.setenv("DMCNN_JAX_CACHE", named)
    assert compile_cache.enable_compilation_cache() is None
