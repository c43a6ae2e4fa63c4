"""Published figures of papers, shown beside measured ones.

The two sets of tables differ by 0.03 to 0.17 dB for the same systems, and use different windows for
SSIM: never mix them in one column.
"""

DMCNN_PAPER: dict[tuple[str, int], dict[str, tuple[float, float, float]]] = {
    ("LIVE1", 10): {
        "JPEG": (27.77, 0.791, 25.33),
        "ARCNN": (29.13, 0.823, 28.74),
        "TNRD": (29.24, 0.825, 28.90),
        "DnCNN-3": (29.27, 0.825, 28.98),
        "CAS-CNN": (29.44, 0.833, 29.19),
        "DMCNN": (29.73, 0.842, 29.55),
    },
    ("LIVE1", 20): {
        "JPEG": (30.07, 0.868, 27.57),
        "ARCNN": (31.40, 0.890, 30.69),
        "TNRD": (31.52, 0.892, 30.88),
        "DnCNN-3": (31.62, 0.894, 30.89),
        "CAS-CNN": (31.70, 0.895, 30.88),
        "DMCNN": (32.09, 0.905, 31.32),
    },
    ("BSDS500", 10): {
        "JPEG": (27.80, 0.788, 25.10),
        "ARCNN": (29.10, 0.820, 28.73),
        "TNRD": (29.16, 0.823, 28.81),
        "DnCNN-3": (29.17, 0.823, 28.91),
        "DDCN": (29.59, 0.838, 29.18),
        "DMCNN": (29.67, 0.840, 29.33),
    },
    ("BSDS500", 20): {
        "JPEG": (30.05, 0.867, 27.22),
        "ARCNN": (31.28, 0.885, 30.55),
        "TNRD": (31.41, 0.889, 30.83),
        "DnCNN-3": (31.50, 0.891, 30.85),
        "DDCN": (31.88, 0.900, 31.10),
        "DMCNN": (31.98, 0.904, 31.29),
    },
}
"""(images, quality) → system → PSNR, SSIM of 8 × 8 windows, PSNR-B.

Zhang, Yang, Hu, Liu: DMCNN, ICIP 2018, tables 1 and 2.
"""

LATER_PAPERS: dict[tuple[str, int], dict[str, tuple[float, float]]] = {
    ("LIVE1", 10): {
        "ARCNN": (28.96, 0.8076),
        "TNRD": (29.15, 0.8111),
        "DnCNN-3": (29.19, 0.8123),
        "MWCNN": (29.69, 0.8254),
        "FBCNN": (29.75, 0.827),
        "DRUNet": (29.79, 0.8278),
        "SwinIR": (29.86, 0.8287),
    },
    ("LIVE1", 20): {
        "ARCNN": (31.29, 0.8733),
        "TNRD": (31.46, 0.8769),
        "DnCNN-3": (31.59, 0.8802),
        "MWCNN": (32.04, 0.8885),
        "FBCNN": (32.13, 0.889),
        "DRUNet": (32.17, 0.8899),
        "SwinIR": (32.25, 0.8909),
    },
}
"""(images, quality) → system → PSNR, SSIM of 11 × 11 Gaussian windows.

From Zhang et al., DnCNN, TIP 2017, to Liang et al., SwinIR, ICCVW 2021.
"""

SYSTEMS = {
    "arcnn": "ARCNN",
    "cas_cnn": "CAS-CNN",
    "ddcn": "DDCN",
    "dmcnn": "DMCNN",
    "dncnn": "DnCNN-3",
    "memnet": "MemNet",
    "tnrd": "TNRD",
}
"""Names in papers of the networks in `models.MODELS`."""


def published_systems(images: str, quality: int) -> list[str]:
    """Returns the systems with a published figure, JPEG first.

    Args:
        images: "LIVE1" or "BSDS500"; others have no figures.
        quality: JPEG quality.
    """
    key = (images.upper(), quality)
    return list(DMCNN_PAPER.get(key, {}) | LATER_PAPERS.get(key, {}))
