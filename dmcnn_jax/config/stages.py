"""Recipes of several stages, each of which starts from the weights of earlier ones.

A file in `configs/shipped/` returns a list of them, from images to a bundled weights file;
`tools/train_stages.py` runs it.
"""

import dataclasses
from collections.abc import Sequence

from dmcnn_jax.config.types import Config


@dataclasses.dataclass(frozen=True)
class TrainStage:
    """A training run.

    Attributes:
        name: name of the stage, unique within the recipe.
        config: the configuration. The command that runs the recipe sets `name`, `workdir`,
            `data.source` and, with `start`, `init_from`.
        start: name of the earlier stage whose best weights it starts from; "": those that
            `config.init_from` names, or random ones.
    """

    name: str
    config: Config
    start: str = ""


@dataclasses.dataclass(frozen=True)
class AverageStage:
    """The mean of the best weights of earlier stages (Izmailov et al., UAI 2018).

    Attributes:
        name: name of the stage, unique within the recipe.
        of: names of the stages.
    """

    name: str
    of: tuple[str, ...]


Stage = TrainStage | AverageStage


def check_stages(stages: Sequence[Stage]) -> None:
    """Checks that names are unique, and that stages use only earlier ones.

    Raises:
        ValueError: for the first stage that doesn't fit, with its name.
    """
    if not stages:
        raise ValueError("the recipe has no stages; expected at least one")
    earlier: list[str] = []
    for stage in stages:
        if stage.name in earlier:
            raise ValueError(f"two stages are named {stage.name!r}; expected unique names")
        used = (
            stage.of if isinstance(stage, AverageStage) else (stage.start,) if stage.start else ()
        )
        for name in used:
            if name not in earlier:
                raise ValueError(
                    f"stage {stage.name!r} starts from {name!r}; expected an earlier stage: "
                    f"{', '.join(earlier) or 'it is the first'}"
                )
        earlier.append(stage.name)
