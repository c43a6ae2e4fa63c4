"""The schedule against sequences worked out by hand."""

import json

import pytest

from dmcnn_jax.config import default_config
from dmcnn_jax.training.schedule import Schedule


def make_config(**fields):
    config = default_config()
    config.train.patch_sizes = (16, 24)
    config.train.stage_steps = (10, 6)
    config.train.learning_rate = 1.0
    config.schedule.factor = 0.5
    config.schedule.patience = 2
    config.schedule.rtol = 0.01
    config.schedule.reductions = 1
    config.update_from_flattened_dict(fields)
    return config


def test_plateau_follows_a_sequence_worked_out_by_hand():
    schedule = Schedule(make_config())
    # Best 1.0; 0.995 has not fallen by 1 %, so that is one, 1.2 is two: reduced. 0.9 is better,
    # then 0.9 (one) and 0.95 (two): the second time, converged, and the next stage is at 1 again.
    losses = [1.0, 0.995, 1.2, 0.9, 0.9, 0.95]
    events = ["", "", "reduced", "", "", "converged"]
    rates = [1.0, 1.0, 0.5, 0.5, 0.5, 1.0]
    for loss, event, rate in zip(losses, events, rates, strict=True):
        schedule.advance()
        assert schedule.observe(loss) == event
        assert schedule.learning_rate == pytest.approx(rate)
    assert (schedule.step, schedule.stage, schedule.stage_step) == (6, 1, 0)
    assert not schedule.done


def test_a_stage_ends_with_its_steps_and_the_run_with_the_last_stage():
    schedule = Schedule(make_config())
    visited = []
    while not schedule.done:
        visited.append((schedule.stage, schedule.stage_step))
        schedule.advance()
        if schedule.stage_over:
            # Each loss is better than the one before.
            schedule.observe(1 / schedule.step)
    assert visited == [(0, i) for i in range(10)] + [(1, i) for i in range(6)]
    assert schedule.step == schedule.total == 16


def test_convergence_of_the_last_stage_ends_the_run():
    schedule = Schedule(make_config(**{"train.patch_sizes": (16,), "train.stage_steps": (100,)}))
    for _ in range(5):
        schedule.advance()
        schedule.observe(1.0)
    assert schedule.done
    assert schedule.step == 5


@pytest.mark.parametrize("name", ["plateau", "cosine"])
def test_a_state_goes_through_json_at_every_step(name):
    config = make_config(**{"schedule.name": name, "schedule.warmup_steps": 3})
    losses = [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    straight, resumed = Schedule(config), Schedule(config)
    for loss in losses:
        restored = Schedule(config)
        restored.state = json.loads(json.dumps(resumed.state))
        resumed = restored
        for schedule in (straight, resumed):
            if not schedule.done:
                schedule.advance()
                schedule.observe(loss)
        assert resumed.state == straight.state
        assert resumed.learning_rate == straight.learning_rate
        assert resumed.done == straight.done


def test_cosine_runs_from_the_first_rate_to_the_final_share_of_it():
    config = make_config(
        **{"schedule.name": "cosine", "schedule.min_lr_ratio": 0.1, "schedule.warmup_steps": 4}
    )
    schedule = Schedule(config)
    rates = []
    while not schedule.done:
        rates.append(schedule.learning_rate)
        schedule.advance()
        schedule.observe(1.0)
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    # Half of the 12 steps after the warm-up, halfway between 1 and 0.1.
    assert rates[10] == pytest.approx(0.55)
    assert schedule.learning_rate == pytest.approx(0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)


@pytest.mark.parametrize(
    "longer",
    [{"train.stage_steps": (10, 9)}, {"train.patch_sizes": (16, 24, 32)}],
    ids=["a longer stage", "another stage"],
)
def test_a_run_that_is_over_can_be_made_longer(longer):
    config = make_config()
    schedule = Schedule(config)
    while not schedule.done:
        schedule.advance()
        if schedule.stage_over:
            schedule.observe(1 / schedule.step)
    if "train.patch_sizes" in longer:
        longer = {**longer, "train.stage_steps": (10, 6, 4)}
    extended = Schedule(make_config(**longer))
    extended.state = json.loads(json.dumps(schedule.state))
    assert not extended.done
    assert extended.step == 16
    expected = (1, 6) if len(longer["train.stage_steps"]) == 2 else (2, 0)
    assert (extended.stage, extended.stage_step) == expected


def test_a_constant_rate_cools_down_over_the_last_steps_of_a_length_that_may_change():
    config = make_config(
        **{
            "train.patch_sizes": (16,),
            "train.stage_steps": (1000,),
            "schedule.name": "constant",
            "schedule.warmup_steps": 4,
            "schedule.cooldown": 0.2,
        }
    )
    schedule = Schedule(config)
    rates = []
    for _ in range(40):
        rates.append(schedule.learning_rate)
        schedule.advance()
    assert rates == pytest.approx([0.25, 0.5, 0.75] + [1] * 37)
    # Shortened to 50 steps, of which 40 are done: it cools down from here.
    config.train.stage_steps = (50,)
    resumed = Schedule(config)
    resumed.state = json.loads(json.dumps(schedule.state))
    rates = []
    while not resumed.done:
        rates.append(resumed.learning_rate)
        resumed.advance()
    expected = [1, 0.683772, 0.552786, 0.452277, 0.367544, 0.292893]
    expected += [0.225403, 0.163340, 0.105573, 0.051317]
    assert rates == pytest.approx(expected, abs=1e-6)
