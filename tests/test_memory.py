"""Commands keep memory, and make a device of each core; each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
# Minor page faults of twenty blocks of 64 MB, taken and freed one after another.
FAULTS = """
import numpy, resource
from dmcnn_jax.system.malloc import tune_malloc, trim_memory
kept = tune_malloc()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def block():
    numpy.ones(2**23)
block()
before = faults()
for _ in range(20):
    block()
def resident():
    import re
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])
held = resident()
trim_memory()
print(kept, faults() - before, held - resident())
"""
DEVICES = """
import sys
import jax
from dmcnn_jax.system import devices
if sys.argv[1] == "late":
    jax.devices()
devices.use_cores_as_devices([int(size) for size in sys.argv[2:]])
print(jax.device_count(), jax.jit(lambda x: x + 1)(1))
"""


def output(program, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={k: v for k, v in os.environ.items() if not k.startswith(("MALLOC", "XLA_FLAGS"))}
        | {"PYTHONPATH": str(CHECKOUT), "JAX_PLATFORMS": "cpu"}
        | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names,
    reason="memory is kept where the C library is glibc",
)
def test_freed_memory_is_used_again():
    kept, faults, trimmed = output(FAULTS)
    assert (kept, int(faults) < 2000, int(trimmed) > 60_000) == ("True", True, True)
    # A block has 16 thousand pages, or 32 of those that are huge.
    usual = {"DMCNN_JAX_KEEP_MEMORY": "0"}
    for environment in (usual, {"MALLOC_TOP_PAD_": "131072"}):
        assert output(FAULTS, **environment)[0] == "False"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="counts cores as Linux does")
def test_a_device_for_each_core_that_batches_can_be_split_over():
    cores = min(8, len(os.sched_getaffinity(0)))
    assert int(output(DEVICES, "early", "840", "1680")[0]) == cores
    assert output(DEVICES, "early", "840", "1") == ["1", "2"]
    if cores > 1:
        assert int(output(DEVICES, "early", "2", "4")[0]) == 2
    # A number of devices that was set, or is in use already, stays.
    chosen = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    assert output(DEVICES, "early", "840", **chosen) == ["4", "2"]
    assert output(DEVICES, "early", "840", JAX_NUM_CPU_DEVICES="3") == ["3", "2"]
    assert output(DEVICES, "late", "840") == ["1", "2"]
