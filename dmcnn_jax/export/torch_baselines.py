"""The other systems' networks in PyTorch, for weights trained with dmcnn_jax.

    python tools/export_params.py runs/dncnn --format torch -o dncnn.pt

>>> from dmcnn_jax.export import torch_baselines
>>> model = torch_baselines.load("dncnn.pt")                    # doctest: +SKIP
>>> image = model(coefficients, table)["image"]                 # doctest: +SKIP

Inputs and outputs are those of `torch_dmcnn.DMCNN`. The files in dmcnn_jax/models/baselines name
the papers, and the assumptions beyond them.
"""

import math
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dmcnn_jax.export.torch_dmcnn import Restorer, constructor_arguments, integers


def load(path: str | os.PathLike) -> Restorer:
    """Loads a network from a state dict that `tools/export_params.py` wrote.

    Args:
        path: path of the file.

    Returns:
        The network, in evaluation mode, on the CPU.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    name = state["_extra_state"]["model"]["name"]
    model = MODELS[name](**constructor_arguments(state))
    model.load_state_dict(state)
    return model.eval()


class ARCNN(Restorer):
    """ARCNN: four convolutions, padded by replication."""

    conv1: nn.Conv2d
    conv2: nn.Conv2d
    conv3: nn.Conv2d
    conv4: nn.Conv2d

    def __init__(self) -> None:
        super().__init__({"name": "arcnn"})
        sizes = ((1, 64, 9), (64, 32, 7), (32, 16, 1), (16, 1, 5))
        for i, (inputs, outputs, size) in enumerate(sizes, 1):
            conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, padding_mode="replicate")
            self.add_module(f"conv{i}", conv)

    def forward(self, coefficients: Tensor, table: Tensor) -> dict[str, Tensor]:
        """Estimates the original as `torch_dmcnn.DMCNN` does: "image" and "jpeg"."""
        decoded = self.decode(*integers(coefficients, table))
        x = F.relu(self.conv1(decoded))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        return {"image": self.conv4(x), "jpeg": decoded}


class DnCNN(Restorer):
    """DnCNN: `depth` convolutions that predict the error of the JPEG, to subtract it.

    Args:
        features: channels between the layers.
        depth: number of convolutions.
        batch_norm: whether outputs of all but the first and the last are normalised.
    """

    def __init__(self, *, features: int = 64, depth: int = 20, batch_norm: bool = True) -> None:
        config = {"features": features, "depth": depth, "batch_norm": batch_norm}
        super().__init__({"name": "dncnn"} | config)
        self.depth = depth
        for i in range(1, depth + 1):
            normalise = batch_norm and 1 < i < depth
            inputs, outputs = 1 if i == 1 else features, 1 if i == depth else features
            conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not normalise)
            self.add_module(f"conv{i}", conv)
            if normalise:
                self.add_module(f"norm{i}", nn.BatchNorm2d(features, momentum=0.01))

    def forward(self, coefficients: Tensor, table: Tensor) -> dict[str, Tensor]:
        """Estimates the original as `torch_dmcnn.DMCNN` does: "image" and "jpeg"."""
        decoded = self.decode(*integers(coefficients, table))
        x = decoded
        for i in range(1, self.depth):
            x = getattr(self, f"conv{i}")(x)
            if hasattr(self, f"norm{i}"):
                x = getattr(self, f"norm{i}")(x)
            x = F.relu(x)
        return {"image": decoded - getattr(self, f"conv{self.depth}")(x), "jpeg": decoded}


class CASCNN(Restorer):
    """CAS-CNN: an auto-encoder over four scales.

    Args:
        features: channels at the two larger scales; twice as many at the two smaller.
    """

    def __init__(self, *, features: int = 128) -> None:
        super().__init__({"name": "cas_cnn", "features": features})
        n = features
        down = {"a1": (1, n), "a2": (n, n), "b1": (n, n), "b2": (n, n), "c1": (n, 2 * n)}
        down |= {"c2": (2 * n, 2 * n), "d1": (2 * n, 2 * n), "d2": (2 * n, 2 * n)}
        outputs = {"a4": (2 * n, 1), "b4": (2 * n, 1), "c4": (4 * n, 1), "d4": (2 * n, 1)}
        for name, channels in (down | outputs).items():
            self.add_module(name, nn.Conv2d(*channels, 3, padding=1))
        for name, channels in {"c3": (2 * n, 2 * n), "b3": (4 * n, n), "a3": (2 * n, n)}.items():
            self.add_module(name, nn.ConvTranspose2d(*channels, 4, stride=2, padding=1))

    def forward(self, coefficients: Tensor, table: Tensor) -> dict[str, Tensor]:
        """Estimates the original as `torch_dmcnn.DMCNN` does.

        Returns:
            "image", "half", "quarter", "eighth" and "jpeg".
        """
        decoded = self.decode(*integers(coefficients, table))

        def layers(x: Tensor, *names: str) -> Tensor:
            for name in names:
                x = F.relu(self.get_submodule(name)(x))
            return x

        def residual(name: str, x: Tensor) -> Tensor:
            return self.get_submodule(name)(x)

        a2 = layers(decoded, "a1", "a2")
        b2 = layers(F.avg_pool2d(a2, 2), "b1", "b2")
        c2 = layers(F.avg_pool2d(b2, 2), "c1", "c2")
        d2 = layers(F.avg_pool2d(c2, 2), "d1", "d2")
        c3 = torch.cat([layers(d2, "c3"), c2], 1)
        b3 = torch.cat([layers(c3, "b3"), b2], 1)
        a3 = torch.cat([layers(b3, "a3"), a2], 1)
        return {
            "image": decoded + residual("a4", a3),
            "half": F.avg_pool2d(decoded, 2) + residual("b4", b3),
            "quarter": F.avg_pool2d(decoded, 4) + residual("c4", c3),
            "eighth": F.avg_pool2d(decoded, 8) + residual("d4", d2),
            "jpeg": decoded,
        }


class DDCN(Restorer):
    """DDCN: a stack of convolutions on coefficients, one on pixels, and one on both.

    Args:
        features: channels between the layers.
        depth: convolutions in each stack.
    """

    def __init__(self, *, features: int = 64, depth: int = 10) -> None:
        super().__init__({"name": "ddcn", "features": features, "depth": depth})
        self.f = _stack(64, features, depth, 64)
        self.g = _stack(1, features, depth, None)
        self.h = _stack(features + 1, features, depth, 1)

    def forward(self, coefficients: Tensor, table: Tensor) -> dict[str, Tensor]:
        """Estimates the original as `torch_dmcnn.DMCNN` does: "image", "dct" and "jpeg"."""
        k, steps = integers(coefficients, table)
        decoded = self.decode(k, steps)
        centre, reach = k * steps.float(), steps / 2
        x = centre + 128 * self.f(centre.permute(0, 3, 1, 2) / 128).permute(0, 2, 3, 1)
        clipped = torch.minimum(torch.maximum(x, centre - reach), centre + reach)
        dct = self.idct(clipped + 0.1 * (x - clipped))
        image = decoded + self.h(torch.cat([self.g(decoded), dct], 1))
        return {"image": image, "dct": dct, "jpeg": decoded}


class MemNet(Restorer):
    """MemNet: memory blocks of recursive units.

    Args:
        features: channels between the layers.
        blocks: number of memory blocks.
        recursions: recursive units in each block.
    """

    def __init__(self, *, features: int = 64, blocks: int = 6, recursions: int = 6) -> None:
        config = {"features": features, "blocks": blocks, "recursions": recursions}
        super().__init__({"name": "memnet"} | config)
        self.blocks, self.recursions = blocks, recursions

        def norm(name: str, channels: int) -> None:
            self.add_module(name, nn.BatchNorm2d(channels, momentum=0.01))

        norm("norm1", 1)
        self.conv1 = nn.Conv2d(1, features, 3, padding=1)
        self.reconstruct = nn.Conv2d(features, 1, 3, padding=1)
        for m in range(1, blocks + 1):
            for name in ("conv_a", "conv_b"):
                self.add_module(f"block{m}_{name}", nn.Conv2d(features, features, 3, padding=1))
            for r in range(1, recursions + 1):
                norm(f"block{m}_norm{r}_a", features)
                norm(f"block{m}_norm{r}_b", features)
            known = (m + recursions) * features
            norm(f"block{m}_norm_gate", known)
            self.add_module(f"block{m}_gate", nn.Conv2d(known, features, 1))
            norm(f"block{m}_norm_end", features)
        self.sum = nn.Parameter(torch.full((blocks,), 1 / blocks))

    def forward(self, coefficients: Tensor, table: Tensor) -> dict[str, Tensor]:
        """Estimates the original as `torch_dmcnn.DMCNN` does.

        Returns:
            "image", "jpeg", and the estimate of each block, "block1" and so on.
        """
        decoded = self.decode(*integers(coefficients, table))

        def activate(name: str, x: Tensor) -> Tensor:
            return F.relu(getattr(self, name)(x))

        memories = [self.conv1(activate("norm1", decoded))]
        images = {}
        for m in range(1, self.blocks + 1):
            conv_a, conv_b = getattr(self, f"block{m}_conv_a"), getattr(self, f"block{m}_conv_b")
            states = [memories[-1]]
            for r in range(1, self.recursions + 1):
                y = conv_a(activate(f"block{m}_norm{r}_a", states[-1]))
                states.append(states[-1] + conv_b(activate(f"block{m}_norm{r}_b", y)))
            known = torch.cat(memories + states[1:], 1)
            gate = getattr(self, f"block{m}_gate")
            memories.append(gate(activate(f"block{m}_norm_gate", known)))
            residual = self.reconstruct(activate(f"block{m}_norm_end", memories[-1]))
            images[f"block{m}"] = decoded + residual
        image = sum(self.sum[i] * estimate for i, estimate in enumerate(images.values()))
        return {"image": image, "jpeg": decoded, **images}


class TNRD(Restorer):
    """TNRD: stages of trainable diffusion and reaction.

    Args:
        strengths: initial strength of the diffusion in each stage.
        reaction: whether each stage limits coefficients to their quantisation intervals.
    """

    def __init__(
        self,
        *,
        strengths: Sequence[float] = (10.0, 5.0, 1.0, 1.0),
        reaction: bool = True,
    ) -> None:
        config = {"strengths": list(strengths), "reaction": reaction}
        super().__init__({"name": "tnrd"} | config)
        self.reaction = reaction
        self.stages = len(strengths)
        for i, strength in enumerate(strengths, 1):
            self.add_module(f"stage{i}", _Diffusion(strength))

    def forward(self, coefficients: Tensor, table: Tensor) -> dict[str, Tensor]:
        """Estimates the original as `torch_dmcnn.DMCNN` does.

        Returns:
            "image", and "jpeg", decoded but not rounded.
        """
        k, steps = integers(coefficients, table)
        centre, reach = k * steps.float(), 0.4 * steps
        decoded = (self.idct(centre) * 255 - 128).clamp(-128, 128)
        u = decoded
        for i in range(1, self.stages + 1):
            u = getattr(self, f"stage{i}")(u)
            if self.reaction:
                x = self.dct((u + 128) / 255)
                x = torch.minimum(torch.maximum(x, centre - reach), centre + reach)
                u = self.idct(x) * 255 - 128
        return {"image": (u + 128) / 255, "jpeg": (decoded + 128) / 255}


class _Diffusion(nn.Module):
    """A diffusion step, u - Σᵢ rot180(kᵢ) * φᵢ(kᵢ * u), grey levels.

    There are 48 kernels kᵢ of 7 × 7; each φᵢ is a sum of 63 Gaussians.

    Args:
        strength: initial strength of φ.
    """

    patterns: Tensor

    def __init__(self, strength: float) -> None:
        super().__init__()
        patterns = _cosine_patterns()  # [7, 7, 48]
        self.register_buffer("patterns", patterns, persistent=False)
        self.filters = nn.Parameter(torch.eye(48))  # [pattern, filter]
        z = torch.arange(-310, 311, dtype=torch.float64)
        centres = z[::10]
        gaussians = torch.exp(-((z[:, None] - centres) ** 2) / 200)
        wanted = strength * 2 * z / (400 + z**2)
        fit = torch.linalg.lstsq(gaussians, wanted[:, None], driver="gelsd").solution
        self.influence = nn.Parameter(fit.float().repeat(1, 48))  # [Gaussian, filter]

    def forward(self, u: Tensor) -> Tensor:
        mixture = self.filters / self.filters.norm(dim=0)
        kernels = (self.patterns @ mixture).permute(2, 0, 1)[:, None]
        responses = self._respond(F.conv2d(_mirror(u), kernels))
        back = kernels.flip(2, 3).transpose(0, 1)
        return u - F.conv2d(_mirror(responses), back)

    def _respond(self, z: Tensor) -> Tensor:
        """Returns φ(z), summed by nine Gaussians at a time as polynomials in exp(±τ)."""
        weights = self.influence[:, :, None, None]
        total = torch.zeros_like(z)
        for middle in range(4, 63, 9):
            tau = ((z - (10 * middle - 310)) / 10).clamp(-12, 12)
            up, down = torch.exp(tau), torch.exp(-tau)
            above = below = torch.zeros_like(z)
            for j in (4, 3, 2, 1):
                scale = math.exp(-(j**2) / 2)
                above = (above + scale * weights[middle + j]) * up
                below = (below + scale * weights[middle - j]) * down
            total = total + torch.exp(-(tau**2) / 2) * (above + weights[middle] + below)
        return total


def _stack(inputs: int, features: int, depth: int, outputs: int | None) -> nn.Sequential:
    """Returns convolutions with ReLU; `outputs` makes the last linear, with that many channels."""
    stack = nn.Sequential()
    for i in range(1, depth + 1):
        last = outputs if i == depth else None
        conv = nn.Conv2d(inputs if i == 1 else features, last or features, 3, padding=1)
        stack.add_module(f"conv{i}", conv)
        if last is None:
            stack.add_module(f"relu{i}", nn.ReLU())
    return stack


def _mirror(x: Tensor) -> Tensor:
    """Adds three pixels on every side, mirrored with the border pixel repeated."""
    x = torch.cat([x[:, :, :3].flip(2), x, x[:, :, -3:].flip(2)], 2)
    return torch.cat([x[..., :3].flip(3), x, x[..., -3:].flip(3)], 3)


def _cosine_patterns() -> Tensor:
    """Returns the 7 × 7 DCT's basis without the constant: float32 [7, 7, 48], of unit length."""
    index = torch.arange(7, dtype=torch.float64)
    basis = torch.cos((2 * index + 1) * index[:, None] * math.pi / 14)
    basis = basis / basis.norm(dim=1, keepdim=True)
    patterns = torch.einsum("vy,ux->yxvu", basis, basis).reshape(7, 7, 49)
    return patterns[..., 1:].float()


MODELS: dict[str, type[Restorer]] = {
    "arcnn": ARCNN,
    "cas_cnn": CASCNN,
    "ddcn": DDCN,
    "dncnn": DnCNN,
    "memnet": MemNet,
    "tnrd": TNRD,
}
