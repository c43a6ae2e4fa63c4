"""The options of a restoration, shared by the Python function, the class and the command."""

import dataclasses

from dmcnn_jax.inference.model import ENGINES

SIZES = ("auto", "fast", "full")
"""Sizes of bundled models: "fast" the narrowest, "full" the widest, "auto" depends on the
device."""


@dataclasses.dataclass(frozen=True)
class RestoreOptions:
    """Options of a restoration.

    Attributes:
        strength: blend between the decoded picture (0) and the restored one (1).
        project: whether restored planes are projected onto the file's quantisation intervals, so
            that quantising them yields the file's coefficients. Switch it off for files of encoders
            that don't simply round (trellis quantisation, for example).
        bits: bits per sample of the result, 8 or 16.
        detect: whether to look for an earlier, coarser save whose artifacts a later, finer save has
            preserved. If there is one, the picture is restored with the earlier table, and
            quantising the result no longer yields the file's coefficients. An earlier save is also
            looked for if `assume_quality` or `prior_grid` is set.
        assume_quality: the quality of the earlier save, if known, 1 to 100.
        prior_grid: offset of the earlier save's blocks from the top left corner, if known: columns
            and rows, 0 to 7.
        size: which bundled models are used, one of `SIZES`: "fast"; "full", which are slower and
            better, above all in colour; "auto", which is "full" on an accelerator or with OpenVINO
            and otherwise "fast".
        ensemble: whether to average over the eight rotations and reflections of the picture:
            slightly better, eight times slower. `dmcnn-photo` averages all planes, others luma.
        engine: library that computes the layers of models loaded by name, one of
            `inference.model.ENGINES` (see `dmcnn_jax.load`). Models passed as objects keep their
            own engine.
        trial: whether to restore parts of the picture first, to see whether the bundled models
            improve it. The small ones harm pixel art and dithering, for example, which are then
            left as decoded.

    Raises:
        ValueError: if an option is out of range.
    """

    strength: float = 1.0
    project: bool = True
    bits: int = 8
    detect: bool = True
    assume_quality: int | None = None
    prior_grid: tuple[int, int] | None = None
    size: str = "auto"
    ensemble: bool = False
    engine: str = "auto"
    trial: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(
                f"strength is {self.strength}; expected 0 (as decoded) to 1 (fully restored)"
            )
        if self.bits not in (8, 16):
            raise ValueError(f"bits is {self.bits}; expected 8 or 16")
        if self.assume_quality is not None and not 1 <= self.assume_quality <= 100:
            raise ValueError(f"assume_quality is {self.assume_quality}; expected 1 to 100")
        grid = self.prior_grid
        if grid is not None and not (len(grid) == 2 and all(0 <= offset <= 7 for offset in grid)):
            raise ValueError(
                f"prior_grid is {grid}; expected two offsets from 0 to 7, columns and rows"
            )
        if self.size not in SIZES:
            raise ValueError(f"size is {self.size!r}; expected one of {', '.join(SIZES)}")
        if self.engine not in ENGINES:
            raise ValueError(f"engine is {self.engine!r}; expected one of: {', '.join(ENGINES)}")
