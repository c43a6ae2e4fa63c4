"""The schedule by the clock: rate, stages and resuming follow the time, not the steps."""

import math
import os
import subprocess
import sys
import time

import pytest
from runs import load_config, read_log, write_images

from dmcnn_jax.config import default_config
from dmcnn_jax.config.validation import validate_config
from dmcnn_jax.training.clock import ClockSchedule
from dmcnn_jax.training.loop import train


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def clock_config(**schedule):
    config = default_config()
    config.train.patch_sizes, config.train.stage_steps = (64, 128), (30, 10)
    config.train.learning_rate = 1.0
    config.schedule.name, config.schedule.cooldown = "clock", 0.25
    config.schedule.minutes = 100 / 60
    config.schedule.update(schedule)
    return config


def run_to(schedule, clock, seconds):
    """Takes a step that ends at a time, counted from the first use of the rate."""
    _ = schedule.learning_rate
    clock.now = 1000 + seconds
    schedule.advance()


@pytest.mark.parametrize(
    ("seconds", "rate"),
    [(1, 0.5 + 0.05), (2, 1), (50, 1), (75, 1), (87.5, 1 - math.sqrt(0.5)), (100, 0), (140, 0)],
)
def test_the_rate_follows_the_clock(seconds, rate):
    clock = Clock()
    schedule = ClockSchedule(clock_config(), clock)
    run_to(schedule, clock, seconds)
    assert schedule.learning_rate == pytest.approx(rate)


def test_stages_share_the_time_and_slow_steps_end_it_too():
    clock = Clock()
    schedule = ClockSchedule(clock_config(validate_minutes=0.5), clock)
    stages, validated = [], []
    for seconds in range(9, 200, 9):
        run_to(schedule, clock, seconds)
        if schedule.validation_due:
            validated.append(seconds)
            if schedule.done:
                break
            schedule.observe(1.0)
        stages.append((seconds, schedule.stage))
    # The first of two stages takes 30 / 40 of 100 seconds; validations are 30 seconds apart.
    assert dict(stages)[72] == 0 and dict(stages)[81] == 1
    assert validated == [36, 72, 81, 108]
    assert schedule.position == schedule.total == 100


@pytest.mark.parametrize(("kind", "position"), [("wall", 60), ("processor", 20)])
def test_validation_is_no_work(kind, position):
    clock = Clock()
    schedule = ClockSchedule(clock_config(clock=kind), clock)
    run_to(schedule, clock, 10)
    clock.now += 40
    schedule.observe(1.0)
    clock.now += 10
    schedule.advance()
    assert schedule.position == position


def test_a_resumed_run_goes_on_where_its_clock_stood_still():
    clock = Clock()
    schedule = ClockSchedule(clock_config(), clock)
    run_to(schedule, clock, 60)
    later = Clock()
    resumed = ClockSchedule(clock_config(), later)
    resumed.state = schedule.state
    assert (resumed.step, resumed.position, resumed.stage) == (1, 60, 0)
    _ = resumed.learning_rate
    later.now += 20
    resumed.advance()
    assert resumed.position == 80 and resumed.stage_over
    # It may be given another time: here less than it has had.
    shorter = ClockSchedule(clock_config(minutes=0.5), later)
    shorter.state = schedule.state
    assert shorter.done


def test_a_run_by_the_clock_ends_annealed_and_can_be_extended(tmp_path):
    write_images(tmp_path / "images")
    one_stage = {"train.patch_sizes": (16,), "train.batch_sizes": (4,), "train.stage_steps": (1,)}
    config = load_config(**{"data.source": str(tmp_path / "images"), **one_stage})
    config.schedule.name, config.schedule.minutes = "clock", 0.03
    config.train.log_every = 1
    saved = []
    train(config, tmp_path / "run", on_validated=lambda: saved.append(1))
    log = read_log(tmp_path / "run")
    rates = [record["learning_rate"] for record in log if "learning_rate" in record]
    assert len(saved) == sum("validation" in record for record in log) >= 1
    assert rates[-1] < 0.3 * max(rates)
    # A finished run may be given more time.
    config.schedule.minutes = 0.05
    train(config, tmp_path / "run")
    assert read_log(tmp_path / "run")[-1]["step"] > log[-1]["step"]


@pytest.mark.parametrize(
    ("field", "value"), [("minutes", 0), ("minutes", -1), ("validate_minutes", 0)]
)
def test_times_are_positive(field, value):
    with pytest.raises(ValueError, match=f"config.schedule.{field} is {value}"):
        validate_config(clock_config(**{field: float(value)}))


def test_clocks_of_several_processes_differ(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"is 'clock' in 2 processes.*expected one process"):
        train(clock_config(), tmp_path)


def test_processor_time_is_for_cpus(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match=r"is 'processor', but JAX trains on a GPU.*'wall'"):
        train(clock_config(clock="processor"), tmp_path)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_processor_time_is_divided_by_the_cores_that_may_be_used():
    """A process that `taskset` pins to one core counts all of its time."""
    code = """
import os, time
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
from dmcnn_jax.training.clock import CLOCKS
before, end = CLOCKS["processor"](), time.process_time() + 0.2
while time.process_time() < end:
    pass
assert CLOCKS["processor"]() - before >= 0.2
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_processor_time_stands_still_while_others_work():
    schedule = ClockSchedule(clock_config(clock="processor"))
    _ = schedule.learning_rate
    time.sleep(0.5)
    schedule.advance()
    assert schedule._elapsed < 0.2
    total, end = 0, time.process_time() + 0.2
    while time.process_time() < end:
        total += 1
    schedule.advance()
    assert schedule._elapsed >= 0.15 / os.cpu_count()
    with pytest.raises(ValueError, match=r"config\.schedule\.clock is .sun."):
        validate_config(clock_config(clock="sun"))
