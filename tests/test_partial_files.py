"""Half-written files: what is left of them, who removes it, and what errors say."""

import fcntl
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dmcnn_jax.cli.process import first_line
from dmcnn_jax.system import atomic_write
from dmcnn_jax.system.atomic_write import replacing, write_file


def leave_over(path, ending="os.kill(os.getpid(), 9)"):
    """Starts to write a file in a process that is killed; returns what it leaves."""
    script = f"""
        import os, sys
        from pathlib import Path
        from dmcnn_jax.system.atomic_write import replacing
        from dmcnn_jax.system.partial_files import partial_folder
        path = Path(sys.argv[1])
        with replacing(path) as file, partial_folder(path.parent) as folder:
            file.write(b"half")
            (folder / "x").touch()
            {ending}
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    subprocess.run(command, cwd=Path(__file__).parents[1], env=os.environ, check=False)
    return sorted(each for each in path.parent.iterdir() if each.suffix == ".partial")


def test_what_killed_processes_leave_is_removed_by_the_next_one(tmp_path):
    left = leave_over(tmp_path / "a")
    assert len(left) == 2 and not (tmp_path / "a").exists()
    others = [tmp_path / name for name in (".dmcnn-mine.partial", "a.partial", "x")]
    for each in others:
        each.write_bytes(b"mine")
    # That of another machine may be alive, though its lock can't be seen.
    kind, _, _, rest = left[0].name.split("-")
    others.append(left[0].rename(tmp_path / f"{kind}-01234567-01234567-{rest}"))
    left = leave_over(tmp_path / "a")
    write_file(tmp_path / "b", b"whole")
    assert set(tmp_path.iterdir()) == {*others, tmp_path / "b"}


def test_what_is_being_written_is_not_removed(tmp_path):
    left = leave_over(tmp_path / "a")
    for each in left:
        fcntl.flock(os.open(each, os.O_RDONLY), fcntl.LOCK_EX)  # until this process ends
    write_file(tmp_path / "b", b"whole")
    assert set(tmp_path.iterdir()) == {*left, tmp_path / "b"}


def test_nothing_is_left_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as file:
        file.write(bytes(1 // 0))
    assert not list(tmp_path.iterdir())


def test_the_umask_of_the_process_is_never_changed(tmp_path, monkeypatch):
    mask = os.umask(0o027)
    monkeypatch.setattr(os, "umask", None)
    try:
        write_file(tmp_path / "a", b"")
    finally:
        monkeypatch.undo()
        os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_no_space_for_the_output_is_one_line_that_says_so(unbuffered):
    script = """
        import sys
        from dmcnn_jax.cli.process import naming_output, run_command
        def body():
            with naming_output():
                print("x")
        sys.exit(run_command("name", body))
    """
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            cwd=Path(__file__).parents[1],
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.stderr == "name: standard output: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.skipif(os.name != "posix", reason="pipes break otherwise there")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "code",
    [
        "from dmcnn_jax.__main__ import main; sys.exit(main(['--no-devices']))",
        "from dmcnn_jax.__main__ import main; sys.exit(main(['--version']))",
        "from dmcnn_jax.cli.gallery import main; sys.exit(main(['--help']))",
        "from dmcnn_jax.cli.process import *; sys.exit(run_command('a', lambda: print('x' * 99)))",
        "from dmcnn_jax.cli.process import *\nwith ending_unread(): print('x'); sys.exit()",
    ],
    ids=["overview", "version", "help", "print", "block"],
)
def test_a_command_whose_output_nobody_reads_ends_without_a_word(code, unbuffered):
    """As in `python -m dmcnn_jax | head`, when head has ended."""
    unread, output = os.pipe()
    os.close(unread)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(output)
    assert done.stderr == ""
    # argparse itself gives up an unbuffered help text in silence.
    assert done.returncode == 141 or (unbuffered and done.returncode == 0)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_no_space_left_is_said_with_the_place(tmp_path, monkeypatch, function):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_write.os, function, refuse)
    with pytest.raises(OSError, match="No space left") as caught, replacing(tmp_path / "a") as file:
        file.write(b"x")
    assert first_line(caught.value) == f"{tmp_path / 'a'}: No space left on device"
    assert not list(tmp_path.iterdir())
