"""The network for photographs in PyTorch. Imports PyTorch and torch_dmcnn.py only.

    python tools/export_params.py dmcnn-photo --format torch -o photo.pt

>>> from dmcnn_jax.export import torch_photo
>>> model = torch_photo.load("photo.pt")                                  # doctest: +SKIP
>>> image = model(luma, chroma, table, subsampling)["image"]              # doctest: +SKIP

Equations and reasons are in dmcnn_jax/models/photo.py; modules have the same names here as there,
and arrays between them are [B, C, H, W].

The subsampling is a tensor, and no shape depends on it, so that one exported program serves 4:2:0,
4:2:2 and 4:4:4: the model in JAX reshapes by subsampling factors, but this one gathers by
positions.
"""

import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dmcnn_jax.export.torch_dmcnn import (
    DMCNN,
    Restorer,
    TableConditioned,
    constructor_arguments,
    encode_steps,
    from_blocks,
    scale_coefficients,
    to_blocks,
)

# Side of a block of 8 × 8 pixels at half scale, in cells.
_HALF = 4

# Chroma varies about a quarter as much as luma.
_CHROMA_SCALE = 4

# Corrections are limited to this multiple of the expected error.
_MAX_CORRECTION = 32

# Grey levels by which intervals shrink on both sides once a DMCNN has restored luma.
_INSET = 0.01

# The tables of libjpeg at quality 50 (T.81, K.1), natural order.
_STANDARD_LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
_STANDARD_CHROMA = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)


def load(path: str | os.PathLike) -> "PhotoNet":
    """Loads a network from a state dict that `tools/export_params.py` wrote.

    Args:
        path: path of the file.

    Returns:
        The network, in evaluation mode, on the CPU.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = PhotoNet(**constructor_arguments(state))
    model.load_state_dict(state)
    return model.eval()


class _LumaNetwork(DMCNN):
    """The DMCNN that restores luma first, without its own description in the state dict."""

    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state


class PhotoNet(Restorer, TableConditioned):
    """The network for photographs.

    Args:
        features: channels at half, quarter and eighth scale.
        dilations: of the residual blocks at an eighth.
        margin: grey levels by which the rectify unit widens intervals on both sides.
        rectify: whether the result is brought back to the intervals.
        luma_features: `features` of the DMCNN that restores luma first.
        luma_dct_features: its `dct_features`.
    """

    standard_luma: Tensor
    standard_chroma: Tensor
    position_bias: Tensor
    first: nn.Conv2d
    first_prelu: nn.PReLU
    to_quarter: nn.Conv2d
    to_eighth: nn.Conv2d
    from_eighth: nn.Conv2d
    from_quarter: nn.Conv2d
    luma_coefficients: nn.Conv2d
    chroma_coefficients: nn.Conv2d
    last: nn.Conv2d

    def __init__(
        self,
        *,
        features: Sequence[int] = (64, 128, 192),
        dilations: Sequence[int] = (1, 2, 1),
        margin: float = 0.25,
        rectify: bool = True,
        luma_features: int = 32,
        luma_dct_features: int = 128,
    ) -> None:
        super().__init__(
            {
                "name": "photo",
                "features": list(features),
                "dilations": list(dilations),
                "margin": margin,
                "rectify": rectify,
                "luma_features": luma_features,
                "luma_dct_features": luma_dct_features,
            }
        )
        self.luma = _LumaNetwork(
            features=luma_features,
            dct_features=luma_dct_features,
            multi_scale=False,
            condition_on_table=True,
        )
        self.margin, self.rectify = margin, rectify
        half, quarter, eighth = features
        self.first = nn.Conv2d(17, half, 3, padding=1)
        self.position_bias = nn.Parameter(torch.zeros(_HALF, _HALF, half))
        self.first_prelu = nn.PReLU(half, 0.1)
        self.to_quarter = nn.Conv2d(4 * half, quarter, 1)
        self.to_eighth = nn.Conv2d(4 * quarter, eighth, 1)
        self.from_eighth = nn.Conv2d(eighth, 4 * quarter, 1)
        self.from_quarter = nn.Conv2d(quarter, 4 * half, 1)
        self.luma_coefficients = nn.Conv2d(64, eighth, 1)
        self.chroma_coefficients = nn.Conv2d(128, 4 * eighth, 1)
        self.last = nn.Conv2d(half, 12, 3, padding=1)
        widths = [half, quarter, *[eighth] * len(dilations), quarter, half]
        self.block_dilations = [1, 1, *dilations, 1, 1]
        for i, (width, dilation) in enumerate(zip(widths, self.block_dilations, strict=True), 1):
            for j in (1, 2):
                conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
                self.add_module(f"block{i}_conv{j}", conv)
            self.add_module(f"block{i}_prelu", nn.PReLU(width, 0.1))
        self.add_table_layers(dict(enumerate(widths, 1)), inputs=3 * 66)
        # Constants: no part of the state dict.
        self.register_buffer("standard_luma", _standard_tables(_STANDARD_LUMA), persistent=False)
        chroma = _standard_tables(_STANDARD_CHROMA)
        self.register_buffer("standard_chroma", chroma, persistent=False)

    def forward(
        self, luma: Tensor, chroma: Tensor, table: Tensor, subsampling: Tensor
    ) -> dict[str, Tensor]:
        """Estimates the original from a colour file's coefficients and tables.

        A gray file is one whose chroma has no coefficients, 4:2:0, with chroma's tables zero.

        Args:
            luma: k of Y, integers [B, h, w, 64].
            chroma: k of Cb and Cr, integers [B, 2, ⌈h / s⌉, ⌈w / t⌉, 64].
            table: Q of Y, Cb and Cr, integers [B, 3, 8, 8]. Zeros for Cb and Cr stand for the
                standard chroma table of luma's quality.
            subsampling: rows and columns of the picture to a chroma sample, integers [2]: (2, 2)
                for 4:2:0, (1, 2) for 4:2:2 and (1, 1) for 4:4:4.

        Returns:
            "image", Y, Cb and Cr, float32 [B, 3, 8h, 8w], scaled to [0, 1], not clipped; and
            "jpeg", the same before its correction.
        """
        luma, chroma = luma.int(), chroma.int()
        steps = self._complete(table.int().flatten(2))
        factors = subsampling.long()
        y = self._decode(luma, steps[:, 0, None, None])[:, None]
        c = self._decode(chroma, steps[:, 1:, None, None])
        size = 8 * luma.shape[1], 8 * luma.shape[2]
        base = torch.cat([y, _upsample(c, factors, size)], 1)
        restored = self.luma(luma, table[:, 0])["image"]
        restored = restored + self._rectify(restored, luma[:, None], steps[:, :1], -_INSET)
        scales = _expected_errors(steps)
        planes = torch.cat([base, (restored - y) / scales[:, :1]], 1)
        correction = self._layers(planes, luma, chroma, steps, factors)
        correction = correction.clamp(-_MAX_CORRECTION, _MAX_CORRECTION) * scales
        gate = _near_colour(chroma, factors, size)
        correction = torch.cat([correction[:, :1], gate * correction[:, 1:]], 1)
        image = torch.cat([restored, base[:, 1:]], 1) + correction
        if self.rectify:
            y = image[:, :1] + self._rectify(image[:, :1], luma[:, None], steps[:, :1], self.margin)
            averages = _mean_of_upsampled(c, factors) + _mean(correction[:, 1:], c, factors)
            moved = self._rectify(averages, chroma, steps[:, 1:], self.margin)
            image = torch.cat([y, image[:, 1:] + _repeat(moved, factors, size)], 1)
        return {"image": image, "jpeg": base}

    def _complete(self, steps: Tensor) -> Tensor:
        """Replaces tables of chroma that are zero: steps [B, 3, 64]."""
        luma, chroma = steps[:, :1], steps[:, 1:]
        logarithms = torch.log2(self.standard_luma.double()) - torch.log2(luma.double())
        nearest = logarithms.abs().mean(2).argmin(1)
        standard = self.standard_chroma[nearest][:, None].expand_as(chroma)
        return torch.cat([luma, torch.where(chroma == 0, standard, chroma)], 1)

    def _decode(self, k: Tensor, steps: Tensor) -> Tensor:
        """Decodes planes without rounding: k [..., h, w, 64] → [..., 8h, 8w], in [0, 1]."""
        planes = _assemble((k * steps).float() @ self.basis)
        return (planes / 255 + 128 / 255).clamp(0, 1)

    def _rectify(self, planes: Tensor, k: Tensor, steps: Tensor, margin: float) -> Tensor:
        """Returns the change of planes [B, C, 8h, 8w] into the intervals of k [B, C, h, w, 64]."""
        blocks = to_blocks((planes * 255 - 128).flatten(0, 1)[:, None])
        x = (blocks @ self.basis.T).unflatten(0, (-1, planes.shape[1]))
        centre = k * steps[:, :, None, None].float()
        reach = steps[:, :, None, None] / 2 + margin
        clipped = torch.minimum(torch.maximum(x, centre - reach), centre + reach)
        return _assemble((clipped - x) @ self.basis) / 255

    def _layers(
        self, planes: Tensor, luma: Tensor, chroma: Tensor, steps: Tensor, factors: Tensor
    ) -> Tensor:
        """Runs the U-Net: corrections in units of `_expected_errors`, [B, 3, H, W].

        `planes` are Y, Cb and Cr as decoded, and the change of Y, in those units, [B, 4, H, W].
        """
        subsampling = torch.log2(factors.float()).expand(steps.shape[0], 3, 2)
        condition = self.conditioning(torch.cat([encode_steps(steps), subsampling], 2).flatten(1))

        def block(i: int, x: Tensor) -> Tensor:
            """A residual block of two convolutions."""
            y = condition(i, self.get_submodule(f"block{i}_conv1")(x))
            y = self.get_submodule(f"block{i}_prelu")(y)
            return x + self.get_submodule(f"block{i}_conv2")(y)

        count = len(self.block_dilations)
        at_half = block(1, self._first_layer(planes, luma.shape[1], luma.shape[2]))
        at_quarter = block(2, self.to_quarter(_space_to_depth(at_half)))
        x = self.to_eighth(_space_to_depth(at_quarter))
        x = x + self._coefficient_layer(luma, chroma, steps, factors)
        for i in range(3, count - 1):
            x = block(i, x)
        x = block(count - 1, _depth_to_space(self.from_eighth(x)) + at_quarter)
        x = block(count, _depth_to_space(self.from_quarter(x)) + at_half)
        return _depth_to_space(self.last(x))

    def _first_layer(self, planes: Tensor, rows: int, columns: int) -> Tensor:
        """Maps the planes [B, 4, H, W] to the first features, at half scale."""
        luma, chroma = planes[:, :1] - 0.5, _CHROMA_SCALE * (planes[:, 1:3] - 0.5)
        x = _space_to_depth(torch.cat([luma, chroma, planes[:, 3:]], 1))
        x = self.first(torch.cat([x, torch.ones_like(x[:, :1])], 1))
        bias = self.position_bias.permute(2, 0, 1)[None]
        return self.first_prelu(x + bias.repeat(1, 1, rows, columns))

    def _coefficient_layer(
        self, luma: Tensor, chroma: Tensor, steps: Tensor, factors: Tensor
    ) -> Tensor:
        """Maps the coefficients of all planes to features at an eighth, [B, C, h, w]."""
        scaled = scale_coefficients(luma, steps[:, 0, None, None])
        features = self.luma_coefficients(scaled.permute(0, 3, 1, 2))
        scaled = scale_coefficients(chroma, steps[:, 1:, None, None])
        quarters = self.chroma_coefficients(scaled.permute(0, 1, 4, 2, 3).flatten(1, 2))
        x = _depth_to_space(quarters)
        # A block of luma covers one quarter of a block of chroma along an axis, or two of them.
        for axis, factor in enumerate(factors, 2):
            first = torch.arange(luma.shape[axis - 1], device=x.device) * 2 // factor
            x = (x.index_select(axis, first) + x.index_select(axis, first + 2 - factor)) / 2
        return features + x


def _standard_tables(base: Sequence[int]) -> Tensor:
    """Returns the tables that libjpeg uses at qualities 1 to 100, int32 [100, 64]."""
    quality = torch.arange(1, 101, dtype=torch.int32)[:, None]
    percent = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return ((torch.tensor(base, dtype=torch.int32) * percent + 50) // 100).clamp(1, 255)


def _assemble(blocks: Tensor) -> Tensor:
    """Rearranges blocks [..., h, w, 64] into planes [..., 8h, 8w]."""
    if blocks.ndim == 4:
        return from_blocks(blocks)[:, 0]
    planes = from_blocks(blocks.flatten(0, 1))[:, 0]
    return planes.unflatten(0, (-1, blocks.shape[1]))


def _expected_errors(steps: Tensor) -> Tensor:
    """Returns the scale of the network's output, [B, 3, 1, 1], from the steps [B, 3, 64]."""
    roots = steps.float().mean(2).sqrt() / 255
    scales = torch.tensor([1, 0.5, 0.5], device=steps.device)
    return (roots * scales)[:, :, None, None]


def _near_colour(chroma: Tensor, factors: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns 1 near blocks of chroma that have coefficients, 0 far from them: [B, 1, H, W]."""
    coloured = (chroma != 0).float().amax((1, 4))[:, None]
    weight = F.max_pool2d(coloured, 3, stride=1, padding=1)
    twice = torch.full_like(factors, 2)
    for _ in range(3):
        weight = _upsample(weight, twice, (2 * weight.shape[2], 2 * weight.shape[3]))
    return _upsample(weight, factors, size)


def _upsample(planes: Tensor, factors: Tensor, size: tuple[int, int]) -> Tensor:
    """Brings planes [B, C, h, w] to full size [B, C, H, W] as libjpeg does, by 1 or 2."""
    for axis, (factor, length) in enumerate(zip(factors, size, strict=True), 2):
        planes = _interpolate(planes, axis, factor, torch.arange(length, device=planes.device))
    return planes


def _interpolate(planes: Tensor, axis: int, factor: Tensor, positions: Tensor) -> Tensor:
    """Returns samples at some positions of an axis upsampled by a factor of 1 or 2.

    By 2, a new sample is 3/4 of the nearer old one and 1/4 of the other.
    """
    near = positions // factor
    other = (near + 2 * (positions % 2) - 1).clamp(0, planes.shape[axis] - 1)
    share = (factor - 1) / 4
    return planes.index_select(axis, near) * (1 - share) + planes.index_select(axis, other) * share


def _repeat(planes: Tensor, factors: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeats samples of planes [B, C, h, w] to full size [B, C, H, W]."""
    for axis, (factor, length) in enumerate(zip(factors, size, strict=True), 2):
        planes = planes.index_select(axis, torch.arange(length, device=planes.device) // factor)
    return planes


def _mean_of_upsampled(planes: Tensor, factors: Tensor) -> Tensor:
    """Returns upsampled planes averaged over their samples again, of the shape of `planes`."""
    for axis, factor in enumerate(factors, 2):
        first = factor * torch.arange(planes.shape[axis], device=planes.device)
        last = first + factor - 1
        ends = _interpolate(planes, axis, factor, first), _interpolate(planes, axis, factor, last)
        planes = (ends[0] + ends[1]) / 2
    return planes


def _mean(planes: Tensor, like: Tensor, factors: Tensor) -> Tensor:
    """Averages planes [B, C, H, W] over samples, to the height and width of `like`.

    Samples may extend by one block to the right and the bottom, where values count as zero.
    """
    planes = F.pad(planes, (0, 8, 0, 8))
    for axis, factor in enumerate(factors, 2):
        first = factor * torch.arange(like.shape[axis], device=planes.device)
        last = first + factor - 1
        planes = (planes.index_select(axis, first) + planes.index_select(axis, last)) / 2
    return planes


def _space_to_depth(x: Tensor) -> Tensor:
    """Turns 2 × 2 pixels into channels, [B, C, H, W] → [B, 4C, H/2, W/2], pixels first."""
    return F.pixel_unshuffle(x, 2).unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2)


def _depth_to_space(x: Tensor) -> Tensor:
    """Turns channels into 2 × 2 pixels: the inverse of `_space_to_depth`."""
    return F.pixel_shuffle(x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2), 2)
