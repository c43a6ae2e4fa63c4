"""Settings of a benchmark run."""

import dataclasses

import jax

SEED, QUALITY = 0, 20
"""Seed of all random numbers, and the JPEG quality of all pictures."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes and repetitions of all measurements.

    Attributes:
        features: F, the network's width, for training and restoring.
        patch: side of training patches, pixels.
        batch: patches in a batch.
        size: height and width of the restored image, pixels.
        dtypes: data types that the network computes in.
        rounds: how often everything is measured.
        seconds: least duration of one measurement; shorter calls are repeated.
        growth_features: F of the networks in section "growth".
        sides: sides of the square images in section "growth", pixels.
        batches: batch sizes of the training steps in section "growth".
        matrix: side of the matrices whose product gives the machine's arithmetic rate.
        compiled: whether PyTorch's network is measured by `torch.compile` as well.
    """

    features: int = 64
    patch: int = 56
    batch: int = 16
    size: tuple[int, int] = (512, 768)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    rounds: int = 5
    seconds: float = 0.2
    growth_features: int = 24
    sides: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    batches: tuple[int, ...] = (1, 2, 3, 4, 7, 8, 16)
    matrix: int = 2048
    compiled: bool = False

    @property
    def block_size(self) -> tuple[int, int]:
        """Height and width of the restored image, rounded down to whole blocks, pixels."""
        height, width = self.size
        return 8 * (height // 8), 8 * (width // 8)

    @classmethod
    def of_machine(cls) -> "Settings":
        """Returns settings that suit the machine.

        On a GPU or TPU these are the recipe's last stage and a 12-megapixel image.
        """
        if jax.default_backend() == "cpu":
            return cls()
        return cls(
            patch=224,
            batch=80,
            size=(3000, 4000),
            growth_features=64,
            batches=(8, 16, 32, 80, 160),
            matrix=8192,
            compiled=jax.default_backend() == "gpu",
        )

    @classmethod
    def quick(cls) -> "Settings":
        """Returns the smallest settings, which only check that everything runs."""
        return cls(
            features=4,
            patch=16,
            batch=2,
            size=(16, 24),
            dtypes=("float32",),
            rounds=2,
            seconds=0,
            growth_features=4,
            sides=(16, 32),
            batches=(1, 2),
            matrix=64,
        )
