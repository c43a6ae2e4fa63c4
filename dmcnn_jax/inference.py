"""A model over whole images: the one way to run one."""

import dataclasses
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dmcnn_jax import jpeg, openvino
from dmcnn_jax.checkpoint import BUNDLED, find_weights, load_weights
from dmcnn_jax.finish import upsample_rows
from dmcnn_jax.jpeg import dihedral
from dmcnn_jax.models import chroma, create_model, dmcnn, first_variables
from dmcnn_jax.system.malloc import trim_memory


@dataclasses.dataclass(frozen=True)
class Model:
    """A network and its weights.

    Attributes:
        module: the Flax module.
        params: its variables, {"params": …} and, of some models, {"batch_stats": …}.
        about: what its weights file says: "model", the configuration, and more.
        name: what it was loaded as.
        engine: what computes its layers over whole images; None for JAX.
    """

    module: nn.Module
    params: Mapping[str, Any]
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name: str = ""
    engine: openvino.Engine | None = dataclasses.field(default=None, compare=False)

    def apply(
        self, params: Mapping[str, Any], coefficients: jax.Array, table: jax.Array
    ) -> jax.Array:
        """Restores luma. Pure: jit, grad and vmap it (not jvp: on CPUs a gradient is our own).

        Args:
            params: `self.params`, or others of the same tree.
            coefficients: k, integers [..., H/8, W/8, 64], natural order.
            table: Q, integers [..., 8, 8], natural order.

        Returns:
            float32 [..., H, W], pixels scaled to [0, 1], not clipped.
        """
        _check_luma(self)
        leading = coefficients.shape[:-3]
        k = coefficients.reshape(-1, *coefficients.shape[-3:])
        q = jnp.broadcast_to(table, (*leading, 8, 8)).reshape(-1, 8, 8)
        image = self.module.apply(params, k, q)["image"]
        return image.reshape(*leading, *image.shape[1:3])


ENGINES = ("auto", "jax", "openvino", "openvino-float32", "openvino-bfloat16")
"""What computes the layers of a model over whole images."""


def load(name: str | os.PathLike, engine: str = "jax") -> Model:
    """Loads a model.

    Args:
        name: a bundled name ("dmcnn-qf10"), a weights file, or the workdir of a run.
        engine: what computes its layers over whole images. "jax": JAX, in float32 if the network
            says nothing else. "openvino": OpenVINO, on a CPU, in bfloat16 where that has the
            instructions, and else in float32, or in the one that is named; of the networks that it
            knows (`openvino.supports`). "auto": OpenVINO where JAX runs on a CPU, if it is
            installed and knows the network.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if there are no such weights.
        ImportError: if OpenVINO is asked for, and not installed.
        ValueError: if the file is none of ours, or its weights don't fit the network that it names;
            for an unknown engine, or one that doesn't know the network.
    """
    by_openvino = is_openvino(engine)
    path = find_weights(name)
    variables, about = load_weights(path)
    if not isinstance(about, dict) or not isinstance(about.get("model"), dict):
        raise ValueError(f"{str(path)!r} does not say which network its weights are of")
    module = create_model(about["model"])
    # Tests have seen to the bundled ones, and checking takes a tenth of a small picture's time.
    if path.parent != BUNDLED:
        check_variables(module, variables, str(path))
    model = Model(module, jax.tree.map(jnp.asarray, variables), about, str(name))
    if not by_openvino or (engine == "auto" and not openvino.supports(module)):
        return model
    _, _, precision = engine.partition("-")
    return dataclasses.replace(model, engine=openvino.Engine(module, variables, precision))


def is_openvino(engine: str) -> bool:
    """Whether an engine is OpenVINO here, for the networks that it knows; "auto" may be.

    Raises:
        ValueError: if it is none of `ENGINES`.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; expected one of: {', '.join(ENGINES)}")
    if engine == "auto":
        return jax.default_backend() == "cpu" and openvino.is_installed()
    return engine != "jax"


def initialize(module: nn.Module, key: jax.Array) -> dict[str, Any]:
    """`first_variables`, compiled; not to be called within a jit.

    Args:
        module: the network.
        key: a scalar key of `jax.random.key`.

    Returns:
        {"params": …} and, of some networks, {"batch_stats": …}; float32.
    """
    draw = jax.jit(partial(first_variables, module), compiler_options=run_once_options())
    return draw(key)


def variable_shapes(module: nn.Module) -> dict[str, Any]:
    """Of a module's variables `jax.ShapeDtypeStruct`s; none is made."""
    return jax.eval_shape(partial(first_variables, module), jax.random.key(0))


def run_once_options() -> dict[str, Any] | None:
    """`compiler_options` of `jax.jit` for what runs once, and is large; None for those of always.

    On CPUs, to compile a network's random weights takes ten seconds, and three if that is not
    asked to be fast; the weights are the same bits.
    """
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None


def extend_variables(
    module: nn.Module, variables: Mapping[str, Any], first: Mapping[str, Any]
) -> dict[str, Any]:
    """Adds layers that weights lack, where they change nothing at first.

    Args:
        module: the network; `neutral`, if it has that, says what such layers' names begin with.
        variables: of the network with or without them.
        first: the variables that it starts with.

    Returns:
        `variables`, and of `first` what they lack of such layers.
    """
    neutral = getattr(module, "neutral", ())
    added = {
        path: value
        for path, value in flatten_dict(first).items()
        if any(name.startswith(neutral) for name in path)
    }
    return unflatten_dict(added | flatten_dict(variables))


def widen_variables(
    module: nn.Module, variables: Mapping[str, Any], first: Mapping[str, Any]
) -> dict[str, Any]:
    """The weights of a narrower network as a wider one's, which at first computes the same.

    New channels see all that there is, by random weights, and nothing of the old network sees them
    yet: weights from new channels to old ones are zero. After Net2WiderNet (Chen, Goodfellow,
    Shlens, "Net2Net: accelerating learning via knowledge transfer", ICLR 2016), which copies old
    channels instead; these learn something else from the first step on.

    Args:
        module: the wider network.
        variables: of one that differs by fewer channels alone.
        first: the variables that the wider one starts with otherwise.

    Returns:
        Variables of the wider one; arrays that fit as they are, or don't fit so, unchanged, and
        all of them for a network that doesn't say that it `widens`.
    """
    if not getattr(module, "widens", False):
        return dict(variables)
    wide, neutral = flatten_dict(first), getattr(module, "neutral", ())

    def widen(path: tuple[str, ...], narrow: Any) -> Any:
        start = wide.get(path)
        # Layers that are told Q hold a scale and a shift side by side.
        if start is None or any(name.startswith(neutral) for name in path if neutral):
            return narrow
        fits = len(start.shape) == len(narrow.shape) and all(
            few <= many for few, many in zip(narrow.shape, start.shape, strict=True)
        )
        if not fits or start.shape == narrow.shape:
            return narrow
        result = np.array(start)
        if result.ndim > 1:
            inputs, outputs = narrow.shape[-2:]
            result[..., inputs:, :outputs] = 0
        result[tuple(map(slice, narrow.shape))] = narrow
        return result

    return unflatten_dict({p: widen(p, value) for p, value in flatten_dict(variables).items()})


def check_variables(module: nn.Module, variables: Mapping[str, Any], source: str) -> None:
    """Raises a ValueError that names what is missing, superfluous or of another shape."""
    expected = _shapes(variable_shapes(module))
    found = _shapes(variables)
    wrong = [f"{key} missing" for key in sorted(expected.keys() - found.keys())]
    wrong += [f"{key} unknown" for key in sorted(found.keys() - expected.keys())]
    wrong += [
        f"{key} is {found[key]}, not {expected[key]}"
        for key in sorted(expected.keys() & found.keys())
        if found[key] != expected[key]
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(
            f"the weights of {source!r} don't fit the model {type(module).__name__}: "
            f"{'; '.join(wrong[:4])}{more}"
        )


def _shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves
    }


@partial(jax.jit, static_argnums=0)
def estimate(
    module: nn.Module, variables: Mapping[str, Any], coefficients: jax.Array, table: jax.Array
) -> dict[str, jax.Array]:
    """All that a module estimates of a batch, jitted; arguments and results of its `__call__`."""
    return module.apply(variables, coefficients, table)


def restore_plane(
    model: Model,
    coefficients: np.ndarray,
    table: np.ndarray,
    *,
    project: bool = False,
    strength: float = 1.0,
    ensemble: bool = False,
    size: tuple[int, int] | None = None,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Restores one plane, of any size, in tiles of a few shapes.

    The result is that of the network over the whole plane at its exact size: tiles overlap by what
    the network sees, and what lies outside the plane is zero at every layer. Memory besides the
    result is bounded by a row of tiles.

    Args:
        model: what to run.
        coefficients: k, integers [h, w, 64], natural order.
        table: Q, integers [8, 8], natural order.
        project: whether the result is moved, by as little as possible, to where quantising it gives
            `coefficients` back.
        strength: how far to go from the decoded plane (0) to the estimate (1); before the
            projection.
        ensemble: whether the estimate is the mean of eight, of the image turned and mirrored
            (Timofte et al., "Seven ways to improve example-based single image super resolution",
            2016): a little better, at eight times the work.
        size: height and width of the picture in the plane, pixels, where the last blocks reach
            beyond it: published networks that work on pixels (`pixel_masks`) don't see the rest.
        progress: called now and then with the share of the work that was done since its last call.

    Returns:
        float32 [8h, 8w], pixels scaled to [0, 1], not clipped.

    Raises:
        ValueError: if there are no coefficients, or they or the table are of another shape; if the
            model restores chroma.
    """
    _check_luma(model)
    coefficients, table = np.asarray(coefficients), np.asarray(table)
    if coefficients.ndim != 3 or coefficients.shape[2] != 64 or 0 in coefficients.shape:
        raise ValueError(
            f"coefficients have shape {coefficients.shape}; expected [h, w, 64], at least one block"
        )
    if table.shape != (8, 8):
        raise ValueError(f"table has shape {table.shape}; expected one table [8, 8]")
    if ensemble:
        return _ensemble(model, coefficients, table, project, strength, progress)
    height, width, _ = coefficients.shape
    first_halo, halo = _halos(model.module)
    if halo is None:
        rows, columns = _Cuts(height, (_whole(height),)), _Cuts(width, (_whole(width),))
    else:
        sides = tile_sides(model.module)
        rows, columns = cut(height, halo, sides), cut(width, halo, sides)
    tiled = len(rows.pieces) > 1 or len(columns.pieces) > 1
    if not getattr(model.module, "pixel_masks", False):
        size = None
    source = _Source(coefficients, table, size)
    last = (np.float32(strength), np.bool_(project))
    plane = np.empty((8 * height, 8 * width), np.float32)
    for row in rows.pieces:
        first = None
        which = (model.module, model.params)
        if model.engine:
            first = _first_pass(model, source, row, rows, first_halo)
            program = partial(_engine_pixels, model)
        elif first_halo and tiled:
            first = _first_pass(model, source, row, rows, first_halo)
            program = partial(_pixels_program, *which)
        else:
            program = partial(_program, *which)
        tiles = (
            source.tile(row.start, rows.length, column.start, columns.length)
            + (
                ()
                if first is None
                else (first[:, 8 * column.start : 8 * (column.start + columns.length)],)
            )
            for column in columns.pieces
        )
        results = _run(
            lambda *batch, program=program: program(*batch, *last),
            tiles,
            len(columns.pieces),
            by_engine=model.engine is not None,
        )
        for column, tile in zip(columns.pieces, results, strict=True):
            down = slice(8 * (row.first - row.start), 8 * (row.last - row.start))
            across = slice(8 * (column.first - column.start), 8 * (column.last - column.start))
            plane[8 * row.first : 8 * row.last, 8 * column.first : 8 * column.last] = tile[
                down, across, 0
            ]
            if progress:
                progress(1 / (len(rows.pieces) * len(columns.pieces)))
    if tiled:
        trim_memory()
    return plane


def _ensemble(model, coefficients, table, project, strength, progress) -> np.ndarray:
    """The mean over all symmetries; arguments and result as of `restore_plane`.

    Mirrored blocks that are filled up lie at the other side, so that there is no `size`.
    """
    mean = np.zeros([8 * blocks for blocks in coefficients.shape[:2]], np.float32)
    for which in range(dihedral.COUNT):
        k, q = dihedral.turn(coefficients, table, which)
        restored = restore_plane(
            model,
            k,
            q,
            strength=strength,
            progress=progress and (lambda share: progress(share / dihedral.COUNT)),
        )
        mean += dihedral.turn_back(restored, which) / dihedral.COUNT
    if project:
        project_in_bands(mean, coefficients, table)
    return mean


def _check_luma(model: Model) -> None:
    if isinstance(model.module, chroma.ChromaNet):
        raise ValueError(
            f"the weights {model.name!r} restore chroma, guided by restored luma; expected weights "
            "that restore luma (those of chroma: python -m dmcnn_jax.evaluate --color --chroma)"
        )


def restore_chroma(
    model: Model,
    coefficients: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    guide: np.ndarray,
    step: tuple[int, int],
    *,
    project: bool = False,
    strength: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Restores Cb and Cr and brings them to full size; as `restore_plane`, in tiles.

    Args:
        model: what to run, a `ChromaNet`.
        coefficients: k of Cb and of Cr, integers [h, w, 64] each, natural order.
        tables: Q of Cb and of Cr, integers [8, 8] each.
        guide: the restored luma, float32 [H, W], levels 0 to 255. Where the blocks of chroma reach
            further, its border is repeated.
        step: rows and columns of the picture to a chroma sample, one of `CHROMA_STEPS`.
        project: whether the result is moved to where averaging it over samples, and quantising
            that, gives `coefficients` back.
        strength: how far to go from chroma as upsampled (0) to the estimate (1).
        progress: as of `restore_plane`.

    Returns:
        float32 [2, 8h · step[0], 8w · step[1]], levels 0 to 255, not clipped.

    Raises:
        ValueError: if there is no way to restore such a step.
    """
    if step not in CHROMA_STEPS:
        raise ValueError(f"step is {step}; expected one of {CHROMA_STEPS}")
    options = {"project": project, "strength": strength, "progress": progress}
    if 4 in step:
        return _restore_chroma_by_four(model, coefficients, tables, guide, step, **options)
    if step == (2, 1):
        # Training is the same for a picture and its transpose, and knows the other.
        turned = [dihedral.turn(k, q, 4) for k, q in zip(coefficients, tables, strict=True)]
        k, q = zip(*turned, strict=True)
        return restore_chroma(model, k, q, guide.T, (1, 2), **options).swapaxes(1, 2)
    height, width, _ = coefficients[0].shape
    unit = 8 * step[0], 8 * step[1]
    halos = model.module.halo(step)
    rows, columns = (
        cut(blocks, halo, [side // max(step) for side in TILE_SIDES])
        for blocks, halo in zip((height, width), halos, strict=True)
    )
    sources = [_Source(k, q) for k, q in zip(coefficients, tables, strict=True)]
    if model.engine:
        program = partial(_engine_chroma, model)
    else:
        program = partial(_chroma_program, model.module, model.params)
    last = np.float32(strength), np.bool_(project)

    def tile(row: _Piece, column: _Piece) -> tuple[np.ndarray, ...]:
        parts = [s.tile(row.start, rows.length, column.start, columns.length) for s in sources]
        k, q, mask = (np.stack(part) for part in zip(*parts, strict=True))
        y, x = (
            np.clip(np.arange(u * piece.start, u * (piece.start + cuts.length)), 0, size - 1)
            for u, piece, cuts, size in zip(
                unit, (row, column), (rows, columns), guide.shape, strict=True
            )
        )
        return k, guide[y[:, None], x, None] / np.float32(255), q, mask[0]

    planes = np.empty((2, unit[0] * height, unit[1] * width), np.float32)
    for row in rows.pieces:
        results = _run(
            lambda *batch: program(*batch, *last),
            (tile(row, column) for column in columns.pieces),
            len(columns.pieces),
            by_engine=model.engine is not None,
        )
        for column, result in zip(columns.pieces, results, strict=True):
            (target_y, source_y), (target_x, source_x) = (
                (
                    slice(u * piece.first, u * piece.last),
                    slice(u * (piece.first - piece.start), u * (piece.last - piece.start)),
                )
                for u, piece in zip(unit, (row, column), strict=True)
            )
            part = planes[:, target_y, target_x]
            np.multiply(np.moveaxis(result[source_y, source_x], -1, 0), 255, out=part)
            if progress:
                progress(1 / (len(rows.pieces) * len(columns.pieces)))
    if len(rows.pieces) * len(columns.pieces) > 1:
        trim_memory()
    return planes


CHROMA_STEPS = tuple(itertools.product((1, 2, 4), repeat=2))
"""Rows and columns of the picture to a chroma sample that `restore_chroma` knows: those that there
is training for, their transposes, and by four."""


def _restore_chroma_by_four(
    model: Model,
    coefficients: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    guide: np.ndarray,
    step: tuple[int, int],
    *,
    project: bool,
    **options: Any,
) -> np.ndarray:
    """`restore_chroma` for 4:1:1 and the like.

    A sample of four columns is one of two in a picture half as wide, which there is training for.
    That is brought to full size as by libjpeg's filter for two, and projected there.
    """
    halves = tuple(2 if factor == 4 else 1 for factor in step)
    edges = [(0, -size % half) for size, half in zip(guide.shape, halves, strict=True)]
    cells = np.pad(guide, edges, mode="edge") if np.any(edges) else guide
    rows, columns = (size // half for size, half in zip(cells.shape, halves, strict=True))
    small = restore_chroma(
        model,
        coefficients,
        tables,
        cells.reshape(rows, halves[0], columns, halves[1]).mean(axis=(1, 3)),
        tuple(factor // half for factor, half in zip(step, halves, strict=True)),
        project=project,
        **options,
    )
    planes = np.empty((2, halves[0] * small.shape[1], halves[1] * small.shape[2]), np.float32)
    for plane, half, k, table in zip(planes, small, coefficients, tables, strict=True):
        for first in range(0, len(k), _BAND):
            last = min(first + _BAND, len(k))
            top, bottom = 8 * step[0] * first, 8 * step[0] * last
            band = plane[top:bottom]
            band[:] = upsample_rows(half, halves, top, bottom)
            if project:
                shape = 8 * (last - first), step[0], 8 * k.shape[1], step[1]
                samples = band.reshape(shape).mean(axis=(1, 3))
                moved = np.asarray(project_plane(samples / 255, k[first:last], table))
                moved = moved * 255 - samples
                band += np.repeat(np.repeat(moved, step[0], axis=0), step[1], axis=1)
    return planes


@jax.jit
def project_plane(plane: jax.Array, coefficients: jax.Array, table: jax.Array) -> jax.Array:
    """The nearest plane that quantises to given coefficients.

    The transform is orthonormal, so the nearest point is found by clipping each coefficient to its
    interval, k·Q ± Q/2.
    Its ends are left out, by a hundredth of a grey level: rounding there is a matter of the
    encoder's taste.

    Args:
        plane: float32 [..., H, W], pixels scaled to [0, 1].
        coefficients: k, integers [..., H/8, W/8, 64].
        table: Q, integers [..., 8, 8].

    Returns:
        float32 [..., H, W], with round(D(255 · plane - 128) / Q) = k.
    """
    lower, upper = jpeg.interval(coefficients, table, margin=-_INSIDE)
    x = jpeg.dct(plane * 255 - 128)
    # As a correction, what lies within keeps its bits.
    return plane + jpeg.idct(jnp.clip(x, lower, upper) - x) / 255


def project_in_bands(plane: np.ndarray, coefficients: np.ndarray, table: np.ndarray) -> None:
    """`project_plane` in place, a band of blocks at a time: for planes of any size.

    Args:
        plane: float32 [H, W], pixels scaled to [0, 1].
        coefficients: k, integers [H/8, W/8, 64].
        table: Q, integers [8, 8].
    """
    for top in range(0, len(coefficients), _BAND):
        rows = slice(8 * top, 8 * (top + _BAND))
        plane[rows] = project_plane(plane[rows], coefficients[top : top + _BAND], table)


# Rows of blocks projected at a time.
_BAND = 64

# What is left out at the ends of intervals, grey levels.
_INSIDE = 0.01


def to_uint8(plane: np.ndarray) -> np.ndarray:
    """Pixels scaled to [0, 1] → uint8, rounded and clipped: what is measured, and what is saved."""
    return np.clip(np.round(np.asarray(plane) * 255), 0, 255).astype(np.uint8)


def tiling(model: Model, rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """How `restore_plane` cuts a plane of so many blocks: along both axes, tiles and their pixels.

    Of two passes, the last, which does nearly all of the work.
    """
    _, halo = _halos(model.module)
    if halo is None:
        return (1, 8 * rows), (1, 8 * columns)
    along = []
    for blocks in (rows, columns):
        cuts = cut(blocks, halo, tile_sides(model.module))
        # JAX computes what of a tile lies outside of the plane, other engines don't.
        length = min(cuts.length, blocks) if model.engine else cuts.length
        along.append((len(cuts.pieces), 8 * length))
    return along[0], along[1]


def computed_pixels(model: Model, rows: int, columns: int) -> int:
    """Pixels of all those tiles: what is computed, overlaps included."""
    return math.prod(count * pixels for count, pixels in tiling(model, rows, columns))


TILE_SIDES = (16, 32, 48, 64, 80, 96)
"""Sides that tiles may have, in blocks. Few, since each pair of sides is a program to compile, of
which a size of picture has one; the largest keeps a network of 64 channels near 2 GB."""

# What the largest tile is for, and how much longer it may get where there is memory for it.
_FEATURES, _LONGEST, _STEP = 64, 144, 16


def tile_sides(module: nn.Module) -> tuple[int, ...]:
    """Sides that a network's tiles may have, in blocks.

    One of fewer channels has the memory for longer ones, which overlap less.
    """
    largest = TILE_SIDES[-1]
    longer = largest * math.sqrt(_FEATURES / getattr(module, "features", _FEATURES))
    longest = min(int(longer), _LONGEST)
    return (*TILE_SIDES, *range(largest + _STEP, longest + 1, _STEP))


STRIP_SIDES = (*TILE_SIDES, 256)
"""Widths of tiles of the first pass, in blocks.

On the grid of blocks there is memory for wide ones.
"""


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A stretch of an axis.

    It starts at block `start`, maybe outside the plane; its results count from `first` to `last`.
    """

    start: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class _Cuts:
    """An axis cut into pieces of one length, in blocks."""

    length: int
    pieces: tuple[_Piece, ...]


def cut(blocks: int, halo: int, sides: Sequence[int]) -> _Cuts:
    """Cuts an axis into overlapping pieces of one length, chosen so that there is least to compute.

    Args:
        blocks: length of the axis.
        halo: blocks that a result needs to know on either side.
        sides: lengths that pieces may have, ascending.

    Returns:
        The cuts. One piece may be longer than the axis; several lie within it.
    """

    def count(side: int) -> float:
        if blocks <= side:
            return 1
        inner = side - 2 * halo
        return math.ceil((blocks - 2 * halo) / inner) if inner > 0 else math.inf

    side = min(sides, key=lambda side: (count(side) * side, -side))
    if math.isinf(count(side)):
        # A network that sees further than the largest tile: smaller would be in vain.
        return _Cuts(blocks, (_whole(blocks),))
    pieces = []
    for i in range(int(count(side))):
        start = max(0, min(i * (side - 2 * halo), blocks - side))
        first = pieces[-1].last if pieces else 0
        last = blocks if start + side >= blocks else start + side - halo
        pieces.append(_Piece(start, first, last))
    return _Cuts(side, tuple(pieces))


def _whole(blocks: int) -> _Piece:
    return _Piece(0, 0, blocks)


def _halos(module: nn.Module) -> tuple[int, int | None]:
    """What passes see, in blocks: the first (0: there is only one), and the last (None: all)."""
    halo = getattr(module, "halo_blocks", None)
    return halo if isinstance(halo, tuple) else (0, halo)


class _Source:
    """Where tiles of a plane are cut from: coefficients, tables and masks for a program."""

    def __init__(
        self, coefficients: np.ndarray, table: np.ndarray, size: tuple[int, int] | None = None
    ):
        self._coefficients, self._table = coefficients, table.astype(np.int32)
        self._size = size

    def tile(self, top: int, rows: int, left: int, columns: int) -> tuple[np.ndarray, ...]:
        """A tile, which may reach outside: k [rows, columns, 64], Q, mask [rows, columns, 1].

        With a size, the mask is one of pixels, [8 rows, 8 columns, 1].
        """
        inner = self._coefficients[max(0, top) : top + rows, max(0, left) : left + columns]
        y, x = max(0, -top), max(0, -left)
        k = np.zeros((rows, columns, 64), np.int32)
        k[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
        mask = np.zeros((rows, columns, 1), bool)
        mask[y : y + inner.shape[0], x : x + inner.shape[1]] = True
        if self._size:
            mask = mask.repeat(8, axis=0).repeat(8, axis=1)
            mask[max(0, self._size[0] - 8 * top) :] = False
            mask[:, max(0, self._size[1] - 8 * left) :] = False
        return k, self._table, mask

    @property
    def width(self) -> int:
        return self._coefficients.shape[1]


def _first_pass(model: Model, source: _Source, row: _Piece, rows: _Cuts, halo: int) -> np.ndarray:
    """What the second pass needs of a row of tiles, over the full width, in strips.

    Float32 [8 · rows.length, at least the plane's width, …]: ÕD, of one channel, or for an engine
    what the pixel branch sees, C and ÕD.
    """
    several = len(rows.pieces) > 1
    top = row.start - halo if several else 0
    length = rows.length + 2 * halo if several else rows.length
    columns = cut(source.width, halo, STRIP_SIDES)
    tiles = (source.tile(top, length, column.start, columns.length) for column in columns.pieces)
    program = _pixel_input_program if model.engine else _coefficients_program
    program = partial(program, model.module, model.params)
    # As wide as the tiles of the second pass may reach.
    shape = 8 * rows.length, 8 * max(source.width, *tile_sides(model.module))
    result = None
    for column, tile in zip(columns.pieces, _run(program, tiles, len(columns.pieces)), strict=True):
        if result is None:
            result = np.zeros((*shape, tile.shape[-1]), np.float32)
        down = slice(8 * (row.start - top), 8 * (row.start - top + rows.length))
        across = slice(8 * (column.first - column.start), 8 * (column.last - column.start))
        result[:, 8 * column.first : 8 * column.last] = tile[down, across]
    return result


def _run(
    program: Callable, tiles: Iterable[tuple[np.ndarray, ...]], count: int, by_engine: bool = False
) -> Iterator[np.ndarray]:
    """Results of a program on tiles, in batches, or one by one: engines take no more."""
    # On a CPU, unlike on an accelerator, nothing is gained by batches, nor by beginning the next
    # before the last is fetched; that would take the memory of two.
    on_cpu = jax.default_backend() == "cpu"
    single = by_engine or on_cpu
    size = 1 if single or count < _BATCH else _BATCH
    ahead = 0 if single else 1
    pending: deque[tuple[int, jax.Array]] = deque()

    def fetch() -> Iterator[np.ndarray]:
        number, results = pending.popleft()
        yield from np.asarray(results)[:number]

    tiles = iter(tiles)
    while batch := list(itertools.islice(tiles, size)):
        filled = batch + batch[-1:] * (size - len(batch))
        arrays = [np.stack(parts) for parts in zip(*filled, strict=True)]
        pending.append((len(batch), program(*arrays)))
        if len(pending) > ahead:
            yield from fetch()
            if on_cpu and not by_engine and count > 1:
                # XLA asks for all the memory of a tile at once. Where something small has landed in
                # what the last tile left, that lies idle, and the next takes as much again.
                trim_memory()
    while pending:
        yield from fetch()


_BATCH = 4


@partial(jax.jit, static_argnums=0)
def _program(module, variables, k, q, mask, strength, project) -> jax.Array:
    """A network in one pass over a batch of tiles: the last estimate, [B, H, W, 1]."""
    return _settle(module.apply(variables, k, q, mask=mask)["image"], k, q, strength, project)


@partial(jax.jit, static_argnums=0)
def _coefficients_program(module, variables, k, q, mask) -> jax.Array:
    """The first of two passes: ÕD, [B, H, W, 1]."""
    return module.apply(variables, k, q, mask=mask, method="restore_coefficients")


@partial(jax.jit, static_argnums=0)
def _pixels_program(module, variables, k, q, mask, dct, strength, project) -> jax.Array:
    """The second pass."""
    estimates = module.apply(variables, k, q, dct, mask=mask, method="restore_pixels")
    return _settle(estimates["image"], k, q, strength, project)


@partial(jax.jit, static_argnums=0)
def _chroma_program(module, variables, k, guide, q, mask, strength, project) -> jax.Array:
    """A network of chroma over a batch of tiles, with strength and projection: [B, H, W, 2]."""
    estimates = module.apply(variables, chroma.ChromaInput(k, guide), q, mask=mask)
    return _settle_chroma(estimates, k, q, strength, project)


def _settle_chroma(estimates, k, q, strength, project) -> jax.Array:
    image, start = estimates["image"], estimates["jpeg"]
    image = jnp.where(strength == 1, image, start + strength * (image - start))
    return jnp.where(project, chroma.project(image, k, q, -_INSIDE), image)


def _engine_pixels(model, k, q, mask, x, strength, project) -> jax.Array:
    """The second pass, its layers by the model's engine; x is their input, [1, H, W, 1 or 2]."""
    correction = model.engine(x, dmcnn.told(q, np), mask)
    last = strength, project
    return _add_correction_program(model.module, model.params, k, q, x[..., -1:], correction, *last)


@partial(jax.jit, static_argnums=0)
def _pixel_input_program(module, variables, k, q, mask) -> jax.Array:
    """The first of two passes for an engine: C and ÕD, centred, [B, H, W, 1 or 2]."""
    dct = module.apply(variables, k, q, mask=mask, method="restore_coefficients")
    return module.apply(variables, k, q, dct, method="pixel_input")


@partial(jax.jit, static_argnums=0)
def _add_correction_program(module, variables, k, q, x, correction, strength, project) -> jax.Array:
    arguments = k, q, x + 0.5, (correction,)
    estimates = module.apply(variables, *arguments, method="add_corrections")
    return _settle(estimates["image"], k, q, strength, project)


def _engine_chroma(model, k, guide, q, mask, strength, project) -> jax.Array:
    """A network of chroma, its layers by the model's engine."""
    which = model.module, model.params
    x, told = _chroma_input_program(*which, k, guide, q, mask)
    correction = model.engine(np.asarray(x), np.asarray(told), mask)
    return _add_chroma_program(*which, k, guide, q, mask, correction, strength, project)


@partial(jax.jit, static_argnums=0)
def _chroma_input_program(module, variables, k, guide, q, mask) -> tuple[jax.Array, jax.Array]:
    chosen = chroma.ChromaInput(k, guide)
    base = module.apply(variables, chosen, q, mask, method="base")
    x = module.apply(variables, chosen, base, mask, method="input")
    return x, chroma.told(q, chosen.step)


@partial(jax.jit, static_argnums=0)
def _add_chroma_program(module, variables, k, guide, q, mask, x, strength, project) -> jax.Array:
    chosen = chroma.ChromaInput(k, guide)
    base = module.apply(variables, chosen, q, mask, method="base")
    estimates = module.apply(variables, chosen, q, base, x, mask, method="add_correction")
    return _settle_chroma(estimates, k, q, strength, project)


def _settle(image, k, q, strength, project) -> jax.Array:
    """Strength and projection. Neither is known to the compiler, so that one program serves all."""
    decoded = jpeg.decode(k, q)[..., None].astype(jnp.float32) / 255
    image = jnp.where(strength == 1, image, decoded + strength * (image - decoded))
    return jnp.where(project, project_plane(image[..., 0], k, q)[..., None], image)
