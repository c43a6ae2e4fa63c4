"""The types of a configuration's fields are those of its default values."""

import typing

import ml_collections
import pytest

from dmcnn_jax.config import default_config, types

SECTIONS = {
    "data": types.DataConfig,
    "train": types.TrainConfig,
    "schedule": types.ScheduleConfig,
    "evaluate": types.EvaluateConfig,
}


@pytest.mark.parametrize("section", ["", *SECTIONS])
def test_every_field_has_a_type_and_every_type_a_field(section):
    config = default_config()
    kind = SECTIONS[section] if section else types.Config
    fields = config[section] if section else config
    hints = typing.get_type_hints(kind)
    assert set(fields) == set(hints)
    for name, value in fields.items():
        if not isinstance(value, ml_collections.ConfigDict):
            origin = typing.get_origin(hints[name]) or hints[name]
            assert isinstance(value, origin), f"{section}.{name}"
