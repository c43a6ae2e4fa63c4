"""The driver on Ray, with a stand-in for Ray that loses actors when a test wants it to."""

import sys
import types
from typing import NamedTuple

import pytest

pytest.importorskip("pyarrow", reason='pip install "dmcnn-jax[archive]"')

from dmcnn_jax.archives.driver import Progress
from dmcnn_jax.archives.ray_driver import LOSSES, run_on_ray
from dmcnn_jax.archives.reports import Summary

DONE = Summary(counts={"restored": 1}, reasons={}, pixels=1, seconds=1.0, began=0.0, ended=1.0)
NEVER = object()
"""The outcome of a task that Ray never runs."""


class Late(NamedTuple):
    """The outcome of a task that ends after all others."""

    outcome: object


class RayActorError(Exception):
    pass


class ActorDiedError(RayActorError):
    pass


class FakeRay(types.SimpleNamespace):
    """Ray whose tasks end in the order in which they were given.

    Args:
        cores: of the cluster; each actor takes one.
        run: called with an actor's number and a shard, None for the actor's start; returns the
            outcome of the task, which may be an error to raise.
    """

    exceptions = types.SimpleNamespace(RayActorError=RayActorError, ActorDiedError=ActorDiedError)

    def __init__(self, cores, run):
        super().__init__(cores=cores, run=run, actors=0)

    def init(self, **options):
        pass

    def shutdown(self):
        pass

    def cluster_resources(self):
        return {"CPU": self.cores}

    def nodes(self):
        return [{"Alive": True}]

    def remote(self, **options):
        return lambda kind: types.SimpleNamespace(remote=self._start)

    def wait(self, tasks, num_returns, timeout):
        ended = [task for task in tasks if task.outcome is not NEVER]
        ended.sort(key=lambda task: isinstance(task.outcome, Late))
        assert ended, "the driver waits for ever"
        return ended[:1], ended[1:]

    def get(self, task):
        outcome = task.outcome.outcome if isinstance(task.outcome, Late) else task.outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _start(self, *arguments):
        number, self.actors = self.actors, self.actors + 1

        def task(shard=None):
            return Task(self.run(number, shard))

        method = types.SimpleNamespace(remote=task)
        return types.SimpleNamespace(ready=method, run_shard=method)


class Task:
    def __init__(self, outcome):
        self.outcome = outcome


def run_shards(monkeypatch, shards, cores, run):
    monkeypatch.setitem(sys.modules, "ray", FakeRay(cores, run))
    progress = Progress(lambda line: None, shards, shards)
    return run_on_ray("target", range(shards), None, progress)


def test_each_shard_is_restored_once(monkeypatch):
    asked = []

    def run(actor, shard):
        asked.append(shard)
        return True if shard is None else DONE

    result = run_shards(monkeypatch, 5, 2, run)
    assert result.finished == 5 and not result.left
    assert sorted(shard for shard in asked if shard is not None) == list(range(5))


def test_an_actor_that_cannot_start_is_not_waited_for(monkeypatch):
    died = ActorDiedError("it died in its creation task\n  File x\nImportError: No module named y")
    with pytest.raises(RuntimeError, match=r"^no actor is left: ImportError: No module named y$"):
        run_shards(monkeypatch, 3, 2, lambda actor, shard: died)

    def run(actor, shard):
        return died if actor == 0 else True if shard is None else DONE

    assert run_shards(monkeypatch, 3, 2, run).finished == 3


def test_the_last_shard_of_a_lost_machine_goes_to_an_idle_actor(monkeypatch):
    """The machine doesn't come back, and the other actor keeps the other core."""
    asked = []

    def run(actor, shard):
        asked.append((actor, shard))
        if shard is None:
            return NEVER if asked.count((actor, None)) > 1 else True
        return Late(RayActorError("lost")) if actor == 0 else DONE

    assert run_shards(monkeypatch, 2, 2, run).finished == 2
    assert asked[-2:] == [(0, None), (1, 0)]


def test_a_shard_that_ends_all_its_actors_is_left(monkeypatch):
    def run(actor, shard):
        if shard is None:
            return True
        return RayActorError("killed") if shard == 1 else DONE

    result = run_shards(monkeypatch, 3, 2, run)
    assert result.finished == 2
    assert result.left == {1: f"its actors died {LOSSES} times (killed)"}
