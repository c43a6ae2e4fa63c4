"""DMCNN in PyTorch, for weights trained with dmcnn_jax. Imports PyTorch only, so it can be copied.

    python tools/export_params.py dmcnn-small-qf10 --format torch -o dmcnn.pt

>>> from dmcnn_jax.export import torch_dmcnn
>>> model = torch_dmcnn.load("dmcnn.pt")                        # doctest: +SKIP
>>> image = model(coefficients, table)["image"]                 # doctest: +SKIP

The input is the JPEG file's data instead of pixels: integer coefficients [B, H/8, W/8, 64] of whole
blocks, channel 8*v + u with v the vertical frequency (natural order, not zigzag), and the
quantisation table [B, 8, 8] in the same order; jpeglib, among others, reads both. Equations and
reasons are in dmcnn_jax/models/dmcnn.py; modules have the same names here as there, and arrays
between them are [B, C, H, W].
"""

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


def load(path: str | os.PathLike) -> "DMCNN":
    """Loads a network from a state dict that `tools/export_params.py` wrote, or that a DMCNN saved.

    Args:
        path: path of the file.

    Returns:
        The network, in evaluation mode, on the CPU.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = DMCNN(**constructor_arguments(state))
    model.load_state_dict(state)
    return model.eval()


def constructor_arguments(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments of the class that a state dict belongs to."""
    return {k: v for k, v in state["_extra_state"]["model"].items() if k != "name"}


class Restorer(nn.Module):
    """A base class of networks for JPEG: libjpeg's decoder, the DCT, and the state dict's extras.

    Args:
        model: the configuration, JSON: "name" and the keyword arguments of the class.
    """

    basis: Tensor
    integer_dct: Tensor

    def __init__(self, model: Mapping[str, Any]) -> None:
        super().__init__()
        self.about = {"model": dict(model)}
        # Constants: no part of the state dict.
        self.register_buffer("basis", _basis(), persistent=False)
        self.register_buffer("integer_dct", _integer_dct(), persistent=False)

    def decode(self, k: Tensor, steps: Tensor) -> Tensor:
        """Decodes as libjpeg does, bit for bit.

        Args:
            k: int32 [B, H/8, W/8, 64].
            steps: Q, int32 [B, 1, 1, 64].

        Returns:
            float32 [B, 1, H, W], levels scaled to [0, 1].
        """
        levels = _saturate(k * steps).unflatten(3, (8, 8))
        # Sums instead of matrix products, since PyTorch lacks these for integers on GPUs.
        terms = (levels[..., v, None, :] * self.integer_dct[v, :, None] for v in range(8))
        columns = _saturate(_shift(sum(terms), 11))
        terms = (columns[..., u, None] * self.integer_dct[u] for u in range(8))
        pixels = _shift(sum(terms), 18) + 128
        return from_blocks(pixels.clamp(0, 255).flatten(3)).float() / 255

    def idct(self, x: Tensor) -> Tensor:
        """Transforms coefficients [B, H/8, W/8, 64] to pixels [B, 1, H, W], scaled to [0, 1]."""
        return (from_blocks(x @ self.basis) + 128) / 255

    def dct(self, image: Tensor) -> Tensor:
        """Transforms pixels to coefficients: the inverse of `idct`."""
        return to_blocks(image * 255 - 128) @ self.basis.T

    def get_extra_state(self) -> dict[str, Any]:
        """Returns the state dict's description of the model: JSON."""
        return self.about

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Adopts a state dict's description of the model.

        Raises:
            ValueError: if it belongs to a model of another configuration.
        """
        for field, default in _keywords(type(self)).items():
            theirs, mine = (about["model"].get(field, default) for about in (state, self.about))
            if _plain(theirs) != _plain(mine):
                raise ValueError(
                    f"the state dict has {field}={theirs!r}, this model {mine!r}; expected the same"
                )
        self.about = dict(state)


class DMCNN(Restorer):
    """The network DMCNN, for luma.

    Args:
        features: channels of the pixel branch at full size; twice and four times as many at half
            and quarter size.
        dct_features: channels of the DCT branch; None for twice `features`.
        dilations: of layers 7, 8 and 9 of the pixel branch.
        dct_dilations: of layers 4, 5 and 6 of the DCT branch.
        dct_branch: whether there is a DCT branch.
        rectifier: how the output of the DCT branch is limited to the quantisation intervals:
            "interval", "leaky", "decoded" or "none".
        margin: grey levels by which the intervals are widened on both sides.
        multi_scale: whether there are estimates at half and quarter size.
        residual: initial r, the share of the DCT branch's estimate in the image that the pixel
            branch corrects.
        learn_residual: whether r is learned or constant.
        condition_on_table: whether both branches are conditioned on the quantisation table.
    """

    def __init__(
        self,
        *,
        features: int = 64,
        dct_features: int | None = None,
        dilations: Sequence[int] = (2, 4, 8),
        dct_dilations: Sequence[int] = (2, 4, 8),
        dct_branch: bool = True,
        rectifier: str = "interval",
        margin: float = 0.25,
        multi_scale: bool = True,
        residual: float = 0.5,
        learn_residual: bool = True,
        condition_on_table: bool = False,
    ) -> None:
        super().__init__(
            {
                "name": "dmcnn",
                "features": features,
                "dct_features": dct_features,
                "dilations": list(dilations),
                "dct_dilations": list(dct_dilations),
                "dct_branch": dct_branch,
                "rectifier": rectifier,
                "margin": margin,
                "multi_scale": multi_scale,
                "residual": residual,
                "learn_residual": learn_residual,
                "condition_on_table": condition_on_table,
            }
        )
        self.rectifier = rectifier
        self.margin = margin
        if dct_branch:
            self.f = DCTBranch(dct_features or 2 * features, dct_dilations, condition_on_table)
        self.g = PixelBranch(1 + dct_branch, features, dilations, multi_scale, condition_on_table)
        self.r = nn.Parameter(torch.tensor(residual)) if learn_residual and dct_branch else residual

    def forward(self, coefficients: Tensor, table: Tensor) -> dict[str, Tensor]:
        """Estimates the original from the file's coefficients and table.

        Args:
            coefficients: k, integers [B, H/8, W/8, 64].
            table: Q, integers [B, 8, 8].

        Returns:
            float32 estimates of the original, [B, 1, H, W], pixels scaled to [0, 1], not clipped:
            "image", "dct" (the DCT branch's) and "jpeg" (what libjpeg decodes); with multi_scale,
            also "half" and "quarter".
        """
        k, steps = integers(coefficients, table)
        decoded = self.decode(k, steps)
        dct, both = decoded, decoded
        if hasattr(self, "f"):
            dct = self._restore_coefficients(k, steps, decoded)
            both = torch.cat([decoded, dct], 1)
        corrections = self.g(both - 0.5, steps)
        base = decoded + self.r * (dct - decoded)
        estimates = {"jpeg": decoded, "dct": dct}
        for i, name in enumerate(("image", "half", "quarter")[: len(corrections)]):
            estimates[name] = (F.avg_pool2d(base, 2**i) if i else base) + corrections[i]
        return estimates

    def _restore_coefficients(self, k: Tensor, steps: Tensor, decoded: Tensor) -> Tensor:
        """Returns the DCT branch's estimate ÕD, [B, 1, H, W]."""
        scaled = scale_coefficients(k, steps).permute(0, 3, 1, 2)
        correction = self.f(scaled, steps).permute(0, 2, 3, 1)
        centre = k * steps.float()
        x = centre + steps * correction
        if self.rectifier != "none":
            if self.rectifier == "decoded":
                centre = self.dct(decoded)
            reach = steps / 2 + self.margin
            clipped = torch.minimum(torch.maximum(x, centre - reach), centre + reach)
            x = clipped + 0.1 * (x - clipped) if self.rectifier == "leaky" else clipped
        return self.idct(x)


class TableConditioned(nn.Module):
    """A network or a part of one, some of whose layers are conditioned on quantisation tables."""

    table_dense: nn.Linear
    table_prelu: nn.PReLU

    def add_table_layers(self, widths: Mapping[int, int], inputs: int = 64) -> None:
        """Adds layers that compute a scale and a shift from the table.

        Args:
            widths: channels by number of the layer to condition.
            inputs: numbers that encode the table, or several.
        """
        self.conditioned_layers = tuple(widths)
        if widths:
            self.table_dense = nn.Linear(inputs, 64)
            self.table_prelu = nn.PReLU(64, 0.1)
        for i, width in widths.items():
            self.add_module(f"table_dense{i}", nn.Linear(64, 2 * width))

    def conditioning(self, encoding: Tensor) -> Callable[[int, Tensor], Tensor]:
        """Returns a function of a layer's number and output: x → x · (1 + scale(Q)) + shift(Q).

        Args:
            encoding: of the table, float32 [B, inputs]: `encode_steps`.
        """
        if not self.conditioned_layers:
            # A name bound in only one branch would split the graph of torch.compile.
            return lambda i, x: x
        code = self.table_prelu(self.table_dense(encoding))

        def condition(i: int, x: Tensor) -> Tensor:
            if i not in self.conditioned_layers:
                return x
            dense = self.get_submodule(f"table_dense{i}")
            scale, shift = dense(code)[..., None, None].chunk(2, 1)
            return x * (1 + scale) + shift

        return condition


class DCTBranch(TableConditioned):
    """f: 9 convolutions on the grid of blocks, which correct coefficients in quantisation steps."""

    def __init__(self, features: int, dilations: Sequence[int], condition_on_table: bool) -> None:
        super().__init__()
        dilations = [1, 1, 1, *dilations, 1, 1]
        for i, dilation in enumerate(dilations, 1):
            inputs = 64 if i == 1 else features
            self.add_module(f"conv{i}", _conv(inputs, features, dilation=dilation))
            self.add_module(f"prelu{i}", nn.PReLU(features, 0.1))
        self.conv9 = _conv(features, 64)
        self.add_table_layers({1: features, 4: features} if condition_on_table else {})

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        """Returns the correction, [B, 64, H/8, W/8], of scaled k of the same shape, given Q."""
        condition = self.conditioning(encode_steps(steps.flatten(1)))

        def layer(i: int, x: Tensor) -> Tensor:
            return self.get_submodule(f"prelu{i}")(condition(i, self.get_submodule(f"conv{i}")(x)))

        x1 = layer(1, x)
        x2 = layer(2, x1)
        x3 = layer(3, x2)
        x6 = layer(6, layer(5, layer(4, x3))) + x3
        x7 = layer(7, x6) + x2
        return self.conv9(layer(8, x7) + x1)


class PixelBranch(TableConditioned):
    """g: an auto-encoder of 15 layers over three scales, which corrects pixels at each of them."""

    def __init__(
        self,
        inputs: int,
        features: int,
        dilations: Sequence[int],
        multi_scale: bool,
        condition_on_table: bool,
    ) -> None:
        super().__init__()
        f = features
        self.multi_scale = multi_scale
        layers: dict[int, nn.Conv2d | nn.ConvTranspose2d] = {
            1: _conv(inputs, f),
            2: _conv(f, f),
            3: _conv(f, f),
            4: _conv(f, 2 * f, stride=2),
            5: _conv(2 * f, 2 * f),
            6: _conv(2 * f, 4 * f, stride=2),
            7: _conv(4 * f, 4 * f, dilation=dilations[0]),
            8: _conv(4 * f, 4 * f, dilation=dilations[1]),
            9: _conv(4 * f, 4 * f, dilation=dilations[2]),
            10: nn.ConvTranspose2d(4 * f, 2 * f, 4, stride=2, padding=1),
            11: _conv(2 * f, 2 * f),
            12: nn.ConvTranspose2d(2 * f, f, 4, stride=2, padding=1),
            13: _conv(f, f),
            14: _conv(f, f),
        }
        for i, module in layers.items():
            self.add_module(f"deconv{i}" if i in (10, 12) else f"conv{i}", module)
            self.add_module(f"prelu{i}", nn.PReLU(module.out_channels, 0.1))
        self.conv15 = _conv(f, 1)
        if multi_scale:
            self.head_half = _conv(2 * f, 1)
            self.head_quarter = _conv(4 * f, 1)
        self.add_table_layers({1: f, 4: 2 * f, 6: 4 * f} if condition_on_table else {})

    def forward(self, x: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
        """Returns corrections of centred pixels, [B, channels, H, W], at full size first."""
        condition = self.conditioning(encode_steps(steps.flatten(1)))

        def layer(i: int, x: Tensor) -> Tensor:
            module = self.get_submodule(f"deconv{i}" if i in (10, 12) else f"conv{i}")
            return self.get_submodule(f"prelu{i}")(condition(i, module(x)))

        x3 = layer(3, layer(2, layer(1, x)))
        x5 = layer(5, layer(4, x3))
        x9 = layer(9, layer(8, layer(7, layer(6, x5))))
        x11 = layer(11, layer(10, x9) + x5)
        x14 = layer(14, layer(13, layer(12, x11) + x3))
        if not self.multi_scale:
            return (self.conv15(x14),)
        return self.conv15(x14), self.head_half(x11), self.head_quarter(x9)


def integers(coefficients: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Returns k and Q as int32 tensors that broadcast: [B, H/8, W/8, 64] and [B, 1, 1, 64]."""
    return coefficients.int(), table.int().flatten(1)[:, None, None]


def encode_steps(steps: Tensor) -> Tensor:
    """Encodes the steps of tables, integers of any shape, as log₂(Q / 16) / 2."""
    return torch.log2(steps.float() / 16) / 2


def scale_coefficients(k: Tensor, steps: Tensor) -> Tensor:
    """Brings coefficients to a range that suits every quality, channels last.

    Args:
        k: integers [..., 64].
        steps: Q, integers that broadcast against k.

    Returns:
        float32 [..., 64]: asinh of AC in steps, and DC in units of 256 grey levels.
    """
    dc = k[..., :1] * steps[..., :1] / 256
    return torch.cat([dc, torch.asinh(k[..., 1:].float())], -1)


def to_blocks(image: Tensor) -> Tensor:
    """Rearranges pixels [B, 1, H, W] into blocks [B, H/8, W/8, 64]."""
    batch, _, height, width = image.shape
    blocks = image.reshape(batch, height // 8, 8, width // 8, 8)
    return blocks.transpose(2, 3).flatten(3)


def from_blocks(blocks: Tensor) -> Tensor:
    """Rearranges blocks [B, H/8, W/8, 64] into pixels [B, 1, H, W]."""
    batch, rows, columns, _ = blocks.shape
    blocks = blocks.unflatten(3, (8, 8)).transpose(2, 3)
    return blocks.reshape(batch, 1, rows * 8, columns * 8)


def _conv(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation)


def _keywords(kind: type) -> dict[str, Any]:
    """Returns the keyword arguments of a class and their defaults."""
    parameters = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shift(values: Tensor, bits: int) -> Tensor:
    """Divides by 2**bits, rounding halves up."""
    return (values + (1 << (bits - 1))) >> bits


def _saturate(values: Tensor) -> Tensor:
    return values.clamp(-(1 << 15), (1 << 15) - 1)


def _basis() -> Tensor:
    """Returns the orthonormal 8×8 DCT, float32 [64, 64]: frequency 8*v + u, pixel 8*y + x."""
    rows = [
        [
            math.sqrt(1 / 8 if u == 0 else 1 / 4) * math.cos((2 * x + 1) * u * math.pi / 16)
            for x in range(8)
        ]
        for u in range(8)
    ]
    one = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(one, one).float()


def _integer_dct() -> Tensor:
    """Returns the matrix of libjpeg's factored DCT ("islow"): int32 [8, 8], frequency, position.

    It is the eight-point DCT times 8192·√8. libjpeg rounds the constants of the factorisation
    (Loeffler, Ligtenberg and Moschytz, ICASSP 1989), so entries are up to 1 off the exact ones.
    """
    even = [[8192] * 4, [10703, 4433, -4433, -10703], [8192, -8192, -8192, 8192]]
    even += [[4433, -10704, 10704, -4433]]
    odd = [
        [11363, 9633, 6437, 2260],
        [9633, -2259, -11362, -6436],
        [6437, -11362, 2261, 9633],
        [2260, -6436, 9633, -11363],
    ]
    rows = []
    for symmetric, antisymmetric in zip(even, odd, strict=True):
        rows.append(symmetric + symmetric[::-1])
        rows.append(antisymmetric + [-value for value in antisymmetric[::-1]])
    return torch.tensor(rows, dtype=torch.int32)
