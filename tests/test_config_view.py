"""The types of a configuration's fields are those of its default values."""

import typing

import ml_collections
import pytest

from dmcnn_jax.config import default_config, view

SECTIONS = {
    "data": view.DataConfig,
    "train": view.TrainConfig,
    "schedule": view.ScheduleConfig,
    "evaluate": view.EvaluateConfig,
}


@pytest.mark.parametrize("section", ["", *SECTIONS])
def test_every_field_has_a_type_and_every_type_a_field(section):
    config = default_config()
    kind = SECTIONS[section] if section else view.Config
    fields = config[section] if section else config
    types = typing.get_type_hints(kind)
    assert set(fields) == set(types)
    for name, value in fields.items():
        if not isinstance(value, ml_collections.ConfigDict):
            origin = typing.get_origin(types[name]) or types[name]
            assert isinstance(value, origin), f"{section}.{name}"
