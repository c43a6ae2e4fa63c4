"""Runs a command many times, each in a fork of one process that has imported what it needs.

A run takes a fraction of a second instead of seconds, and is otherwise the command's own: its
`main`, its process, its signals, its exit. The process that is forked has not started JAX.
"""

import contextlib
import dataclasses
import importlib
import itertools
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

RESTORE = "dmcnn_jax.cli.restore"
_IMPORTED = (
    "dmcnn_jax.cli.restore_batch",
    "dmcnn_jax.cli.undo",
    "dmcnn_jax.restoration.restorer",
    "dmcnn_jax.restoration.verification",
    "dmcnn_jax.images.formats",
    "forgeries",
)


@dataclasses.dataclass(frozen=True)
class Kill:
    """A signal, and when it is sent.

    Attributes:
        number: of the signal.
        line: after so many lines of standard error.
        seconds: after that line, or after the start.
    """

    number: int
    line: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Run:
    """A command that has ended.

    Attributes:
        status: its exit status, or minus the number of the signal that ended it.
        said: its standard error.
        longest: seconds, at most, from a line to the next, or to the end.
        busiest: of these, seconds of processor time: what a busy machine doesn't lengthen.
        peak: memory, bytes; that of processes that it started does not count together with its own.
        hung: whether it said nothing for too long, and was killed.
    """

    status: int
    said: str
    longest: float
    busiest: float
    peak: int
    hung: bool


class WarmCommands:
    """A process to be forked; to be closed.

    Args:
        patience: seconds without a line after which a run counts as hung, and is killed.
        cache: folder of compiled programs; None: as users have it.
    """

    def __init__(self, patience: float = 300, cache: Path | None = None) -> None:
        self.patience = patience
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno())]
        environment = dict(os.environ)
        if cache is not None:
            # Everything compiled, so that a run that may not write large files need not.
            environment |= {
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        theirs.close()

    def run(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        module: str = RESTORE,
        bound: int | None = None,
        kill: Kill | None = None,
    ) -> Run:
        """Runs a command.

        Args:
            arguments: of the command.
            module: which has its `main`.
            bound: bytes that no file may exceed.
            kill: a signal to send.
        """
        reading, writing = os.pipe()
        request = {"module": module, "arguments": list(map(str, arguments)), "bound": bound}
        socket.send_fds(self._socket, [json.dumps(request).encode()], [writing])
        os.close(writing)
        process = int(self._socket.recv(100))
        try:
            said, longest, times, hung = self._listen(process, reading, kill)
        finally:
            os.close(reading)
        status, peak, total = self._socket.recv(100).split()
        times.append(float(total))
        busiest = max(after - before for before, after in itertools.pairwise(times))
        return Run(int(status), said, longest, busiest, int(peak), hung)

    def _listen(
        self, process: int, reading: int, kill: Kill | None
    ) -> tuple[str, float, list[float], bool]:
        """Reads standard error to its end, with the processor time at each line; sends a signal."""
        said, longest, times, hung = b"", 0.0, [0.0], False
        last = time.monotonic()
        due = last + kill.seconds if kill and kill.line == 0 else None
        with selectors.DefaultSelector() as selector:
            selector.register(reading, selectors.EVENT_READ)
            while True:
                now = time.monotonic()
                until = min(last + self.patience, due if due is not None else float("inf"))
                if selector.select(max(0, until - now)):
                    part = os.read(reading, 1 << 16)
                    now = time.monotonic()
                    longest, last = max(longest, now - last), now
                    if not part:
                        return said.decode(errors="replace"), longest, times, hung
                    said += part
                    times.append(_processor_time(process, times[-1]))
                    if kill and kill.line and said.count(b"\n") >= kill.line:
                        due, kill = now + kill.seconds, dataclasses.replace(kill, line=0)
                elif due is not None:
                    assert kill is not None
                    _send(process, kill.number)
                    due = None
                else:
                    hung, last = True, now
                    _send(process, signal.SIGKILL)

    def close(self) -> None:
        """Ends the process."""
        self._socket.close()
        self._process.wait()


def _processor_time(process: int, otherwise: float) -> float:
    """Returns the seconds of processor time of a process, or another number if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return otherwise
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it was faster
        os.kill(process, number)


def _serve(listening: socket.socket) -> tuple[str, list[str]] | None:
    """Forks for each request; returns in the fork, and at the end of all."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(listening, 1 << 20, 1)
        if not data:
            return None
        request = json.loads(data)
        process = os.fork()
        if process == 0:
            listening.close()
            os.dup2(descriptors[0], 2)
            os.close(descriptors[0])
            if (bound := request["bound"]) is not None:
                # Writing more is an error then, instead of a signal.
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (bound, bound))
            return request["module"], request["arguments"]
        os.close(descriptors[0])
        listening.send(b"%d" % process)
        _, status, usage = os.wait4(process, 0)
        status = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(BrokenPipeError):  # the other side was stopped
            total = usage.ru_utime + usage.ru_stime
            listening.send(b"%d %d %f" % (status, 1024 * usage.ru_maxrss, total))


def _main() -> int:
    for name in _IMPORTED:
        importlib.import_module(name)
    found = _serve(socket.socket(fileno=int(sys.argv[1])))
    if found is None:
        return 0
    module, arguments = found
    sys.argv[:] = [module.rpartition(".")[2], *arguments]
    return importlib.import_module(module).main()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(_main())
