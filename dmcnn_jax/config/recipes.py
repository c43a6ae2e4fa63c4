"""Recipes of several phases, each of which starts from the weights of earlier ones.

A file in `configs/shipped/` returns a list of them, from images to a bundled weights file;
`tools/train_recipe.py` runs it.
"""

import dataclasses
from collections.abc import Sequence

from dmcnn_jax.config.types import Config


@dataclasses.dataclass(frozen=True)
class PackOptions:
    """The reduced copies and drawings in a phase's pack.

    Attributes:
        scales: lowest and highest factor by which each copy of an image is reduced; None: as
            `data.max_short_side` says.
        copies: how many times each image is packed, each time by another factor; 1 without scales.
        graphics: how many graphics drawn by code are added.
        skies: how many skies drawn by code are added.
    """

    scales: tuple[float, float] | None = None
    copies: int = 1
    graphics: int = 0
    skies: int = 0


@dataclasses.dataclass(frozen=True)
class TrainPhase:
    """A training run.

    Attributes:
        name: name of the phase, unique within the recipe.
        config: the configuration. The command that runs the recipe sets `name`, `workdir`,
            `data.source` and, with `start`, `init_from`.
        start: name of the earlier phase whose best weights it starts from; "": the weights named by
            `config.init_from`, or random ones.
        pack: options of its pack.
    """

    name: str
    config: Config
    start: str = ""
    pack: PackOptions = PackOptions()


@dataclasses.dataclass(frozen=True)
class AveragePhase:
    """The mean of the best weights of earlier phases (Izmailov et al., UAI 2018).

    Attributes:
        name: name of the phase, unique within the recipe.
        of: names of the phases.
    """

    name: str
    of: tuple[str, ...]


Phase = TrainPhase | AveragePhase


def check_phases(phases: Sequence[Phase]) -> None:
    """Checks that names are unique, and that phases use only earlier ones.

    Raises:
        ValueError: for the first invalid phase, with its name.
    """
    if not phases:
        raise ValueError("the recipe has no phases; expected at least one")
    earlier: list[str] = []
    for phase in phases:
        if phase.name in earlier:
            raise ValueError(f"two phases are named {phase.name!r}; expected unique names")
        used = (
            phase.of if isinstance(phase, AveragePhase) else (phase.start,) if phase.start else ()
        )
        for name in used:
            if name not in earlier:
                raise ValueError(
                    f"phase {phase.name!r} starts from {name!r}; expected an earlier phase: "
                    f"{', '.join(earlier) or 'it is the first'}"
                )
        earlier.append(phase.name)
