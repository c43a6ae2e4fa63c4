"""Types of a configuration's fields, for type checkers.

`default_config` returns an `ml_collections.ConfigDict`, whose fields have no types. Functions that
read a configuration annotate it as a `Config`, which declares the same fields; nothing is
converted. `defaults.py` explains each field.
"""

from collections.abc import ItemsView, Sequence
from typing import Any, Protocol


class DataConfig(Protocol):
    """The fields of `config.data`."""

    source: str
    data_dir: str
    pipeline: str
    validation: str
    validation_images: int
    luma: str
    guide: str
    subsampling: Sequence[str]
    tile: int
    max_short_side: int
    device_bytes: int


class TrainConfig(Protocol):
    """The fields of `config.train`."""

    patch_sizes: Sequence[int]
    batch_sizes: Sequence[int]
    stage_steps: Sequence[int]
    fixed_batch: bool
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    clip_norm: float
    ema_decay: float
    unfreeze: bool
    validate_every: int
    checkpoint_every: int
    log_every: int


class ScheduleConfig(Protocol):
    """The fields of `config.schedule`."""

    name: str
    factor: float
    patience: int
    rtol: float
    reductions: int
    restart: float
    min_lr_ratio: float
    cooldown: float
    warmup_steps: int
    minutes: float
    clock: str
    validate_minutes: float


class EvaluateConfig(Protocol):
    """The fields of `config.evaluate`."""

    images: str
    luma: str
    output: str
    gallery: str
    project: bool
    ensemble: bool


class ModelConfig(Protocol):
    """The fields of `config.model`: a network's name, and the fields of that network."""

    name: str

    def __getattr__(self, field: str) -> Any:
        """Returns a field of the network."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a dictionary."""


class Config(Protocol):
    """The fields of a configuration."""

    name: str
    workdir: str
    seed: int
    init_from: str
    quality: int
    quality_range: Sequence[int]
    random_table_prob: float
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    schedule: ScheduleConfig
    evaluate: EvaluateConfig

    def items(self) -> ItemsView[str, Any]:
        """Returns names and values of the fields."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a dictionary."""

    def to_json_best_effort(self, *, indent: int | None = None) -> str:
        """Returns the fields as JSON."""
