"""What a training run shows of its progress: the time left, a bar, lines in a file."""

import io
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dmcnn_jax.config import default_config
from dmcnn_jax.system.item_progress import show_progress
from dmcnn_jax.training.clock import ClockSchedule
from dmcnn_jax.training.progress_display import Progress, TimeLeft
from dmcnn_jax.training.schedule import Schedule


class Clock:
    """A clock that stands still unless it is told to go on."""

    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A file that claims to be a terminal."""

    def isatty(self):
        return True


class SlowFile(io.StringIO):
    """A file in which another thread may write between two writes of one."""

    def write(self, text):
        time.sleep(0.002)
        return super().write(text)


def make_run(stage_steps=(100, 50), batch_pixels=(1000, 3000), validate_every=20):
    """A schedule of two stages, and the estimate of its time by a clock."""
    config = default_config()
    config.train.patch_sizes = (8,) * len(stage_steps)
    config.train.stage_steps = stage_steps
    config.train.validate_every = validate_every
    schedule, clock = Schedule(config), Clock()
    return schedule, clock, TimeLeft(schedule, stage_steps, batch_pixels, validate_every, clock)


def step(schedule, clock, left, seconds):
    clock.now += seconds
    left.count(schedule.stage)
    schedule.advance()


def test_compiling_does_not_count_in_the_time_left():
    schedule, clock, left = make_run()
    with left.excluded():
        clock.now += 35
    assert left.seconds() is None and left.seconds_per_step() is None
    for _ in range(12):
        step(schedule, clock, left, 2)
    assert left.seconds_per_step() == pytest.approx(2)
    # 88 steps as long as these, and 50 of three times the pixels.
    assert left.seconds() == pytest.approx(88 * 2 + 50 * 6)


def test_the_time_left_follows_the_last_steps():
    schedule, clock, left = make_run()
    for seconds in [9] * 30 + [1] * 20:
        step(schedule, clock, left, seconds)
    assert left.seconds_per_step() == pytest.approx(1)


def test_each_step_carries_its_share_of_a_validation():
    schedule, clock, left = make_run()
    for number in range(1, 61):
        step(schedule, clock, left, 1)
        if number % 20 == 0:
            clock.now += 10
    assert left.seconds_per_step() == pytest.approx(1.5)


def test_the_last_stages_end_is_the_end():
    schedule, clock, left = make_run((3, 2))
    for _ in range(3):
        step(schedule, clock, left, 1)
    schedule.observe(1.0)
    for _ in range(2):
        step(schedule, clock, left, 3)
    assert schedule.done and left.seconds() == 0


def test_a_run_by_the_clock_knows_its_time_left():
    config = default_config()
    config.schedule.name, config.schedule.minutes = "clock", 1.0
    config.train.patch_sizes = config.train.stage_steps = (8,)
    clock = Clock()
    schedule = ClockSchedule(config, clock)
    left = TimeLeft(schedule, (8,), (64,), 100, clock)
    assert schedule.learning_rate > 0
    clock.now = 21
    schedule.advance()
    assert left.seconds() == 39


def test_a_file_gets_lines_now_and_then(monkeypatch):
    schedule, clock, left = make_run((200,), (1000,))
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with Progress(schedule, left, clock) as progress:
        progress.write("compiling")
        for number in range(1, 201):
            step(schedule, clock, left, 2)
            progress.advance()
            if number % 5 == 0:
                progress.report(f"loss {number}")
    lines = file.getvalue().split("\n")
    assert "\r" not in file.getvalue()
    assert lines[:2] == ["compiling", "step 5 of 200 (2 %), 2 s/step, 06:30 left, loss 5"]
    assert lines[2] == "step 20 of 200 (10 %), 2 s/step, 06:00 left, loss 15"
    assert lines[-2:] == ["step 200 of 200 (100 %), 2 s/step, 00:00 left, loss 200", ""]
    assert len(lines) == 1 + 1 + 13 + 1 + 1  # every 30 s of 400


def test_lines_of_several_threads_do_not_run_together(monkeypatch):
    schedule, clock, left = make_run((200,), (1000,))
    file = SlowFile()
    monkeypatch.setattr(sys, "stderr", file)
    with Progress(schedule, left, clock) as progress, ThreadPoolExecutor(4) as threads:
        names = [f"compiling {number} …" for number in range(8)]
        list(threads.map(progress.write, names))
    assert sorted(file.getvalue().splitlines()) == names


def test_a_terminal_gets_a_bar_that_stays_where_the_run_was_stopped(monkeypatch):
    schedule, clock, left = make_run((200,), (1000,))
    file = Terminal()
    monkeypatch.setattr(sys, "stderr", file)
    with pytest.raises(KeyboardInterrupt), Progress(schedule, left, clock) as progress:
        for _ in range(10):
            step(schedule, clock, left, 2)
            progress.advance()
        progress.report("loss 3")
        raise KeyboardInterrupt
    last = file.getvalue().split("\r")[-1]
    assert "  5%" in last and "step 10/200" in last
    assert "2 s/step, 06:20 left, loss 3" in last


def test_a_loop_over_items_gives_a_file_lines_and_a_terminal_a_bar(monkeypatch):
    clock, file, terminal = Clock(), io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stderr", file)
    for item in show_progress("abcde", 5, clock=clock):
        assert item in "abcde"
        clock.now += 20
    assert file.getvalue() == "image 2 of 5\nimage 4 of 5\n"
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(show_progress(iter([1, 2]), 2)) == [1, 2]
    assert "2/2" in terminal.getvalue() or "0/2" in terminal.getvalue()
