r"""Trains all systems for the same time, each by the optimizer that suits it best.

python tools/train_systems.py --source packs/train -o runs/systems --minutes 40 --trial-minutes 5

Each system starts from random weights at quality 10. First it is trained for a few minutes by Adam,
by Muon at two learning rates, and by its authors' optimizer; the one that gains most on the
validation images then trains it from the start. Minutes are processor time divided by the number of
cores, so that other work on the machine doesn't favour any system; validation doesn't count.
If interrupted, the same command resumes.

Systems can be trained on several days or machines: those in the output folder's `choices.json`,
with their weights in its folder `systems`, are not trained again. At the end, it prints the command
that compares all of them.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import UsageError, command_parser, prepare_process
from dmcnn_jax.system.atomic_write import write_file

SYSTEMS = {
    "ARCNN": ("configs/arcnn.py", {}),
    "TNRD": ("configs/tnrd.py", {}),
    "DnCNN-3": ("configs/dncnn3.py", {}),
    "DDCN": ("configs/ddcn.py", {}),
    "CAS-CNN": ("configs/cas_cnn.py", {}),
    "MemNet": ("configs/memnet.py", {}),
    "DMCNN": ("configs/ablations/full.py", {"features": 64}),
    "DMCNN, half width": ("configs/ablations/full.py", {"features": 32, "dct_features": 128}),
}
"""Configuration of each system, and fields of its network that differ from it."""

# Optimizers that all systems are tried with, and their learning rates. Muon lets kernels grow: at
# 3e-3, those of a deep network are too large after some ten thousand steps, and its gain falls.
_OPTIMIZERS = {"adam": ("adam", 1e-3), "muon": ("muon", 1e-3), "muon-3e-3": ("muon", 3e-3)}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    add = parser.add_argument
    add("--source", required=True, help="training images: a folder or a pack")
    add("-o", "--output", required=True, type=Path, help="folder for runs, weights and choices")
    add("--minutes", type=float, default=40, help="time of each system (default: 40)")
    add("--trial-minutes", type=float, default=5, help="time of each trial (default: 5)")
    add("--systems", nargs="+", choices=tuple(SYSTEMS), default=tuple(SYSTEMS), metavar="NAME")
    add(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="set a field of every configuration, such as data.validation_images=8",
    )
    options = parser.parse_args(argv)
    return run_main("train_systems", lambda: _train(options), argv)


def _train(options: argparse.Namespace) -> None:
    if not (options.minutes > 0 and options.trial_minutes > 0):
        raise UsageError(
            f"--minutes is {options.minutes:g}, --trial-minutes {options.trial_minutes:g}; "
            "expected positive numbers"
        )
    prepare_process()
    from dmcnn_jax.config.validation import batch_sizes
    from dmcnn_jax.system import devices

    devices.use_cores_as_devices(batch_sizes(_config(options, options.systems[0], "adam")))
    path = options.output / "choices.json"
    choices: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    for name in options.systems:
        done = choices.get(name)
        if done and done["minutes"] == options.minutes and _weights(options, name, done).exists():
            print(f"{name}: trained already", flush=True)
            continue
        gains: dict[str, float] = {}
        for optimizer in (*_OPTIMIZERS, *_own(name)):
            try:
                gains[optimizer] = _run(
                    options, name, optimizer, options.trial_minutes, "trials", 1
                )
            except FloatingPointError as error:
                print(f"{name}: {optimizer} diverged: {error}", flush=True)
        if not gains:
            raise FloatingPointError(f"{name}: every optimizer diverged")
        best = max(gains, key=gains.__getitem__)
        print(f"{name}: {gains} dB in trials; {best} is taken", flush=True)
        # Until the end, its weights in the folder are of another number of minutes.
        if choices.pop(name, None):
            _write_choices(path, choices)
        gain = _run(options, name, best, options.minutes, "systems", 5)
        choices[name] = {
            "optimizer": best,
            "trials": gains,
            "minutes": options.minutes,
            "gain": gain,
        }
        _write_choices(path, choices)
    compared = " ".join(
        f'"{name}={_weights(options, name, choices[name])}"' for name in SYSTEMS if name in choices
    )
    print(f"dmcnn-compare {compared} --images LIVE1=FOLDER --qualities 10")


def _write_choices(path: Path, choices: dict[str, dict[str, Any]]) -> None:
    write_file(path, (json.dumps(choices, indent=2) + "\n").encode())


def _run(
    options: argparse.Namespace,
    name: str,
    optimizer: str,
    minutes: float,
    folder: str,
    validations: int,
) -> float:
    """Trains a system, or resumes it, and returns its gain on the validation images, dB."""
    from dmcnn_jax.training import plots, timed_runs

    config = _config(options, name, optimizer)
    config.name = f"{_folder(name)}-{optimizer}"
    # Runs of other lengths have folders of their own: resumed, they would be annealed twice.
    config.workdir = str(options.output / folder / "runs" / f"{config.name}-{minutes:g}")
    config.schedule.validate_minutes = minutes / validations
    timed_runs.run(config, minutes, options.output / folder)
    validated = [r["validation"] for r in plots.read_log(config.workdir) if "validation" in r]
    return round(float(validated[-1]["gain"]), 3)


def _weights(options: argparse.Namespace, name: str, choice: dict[str, Any]) -> Path:
    """Returns the weights file of a system and the optimizer that was chosen for it."""
    return Path(options.output) / "systems" / f"{_folder(name)}-{choice['optimizer']}.safetensors"


def _config(options: argparse.Namespace, name: str, optimizer: str) -> Any:
    """Returns the configuration of a system with an optimizer: of `_OPTIMIZERS`, or "own"."""
    from dmcnn_jax.config.files import load_config, set_fields

    path, fields = SYSTEMS[name]
    root = Path(__file__).resolve().parents[1]
    config = load_config(f"{root / path}:{'time-own' if optimizer == 'own' else 'time'}")
    config.model.update(fields)
    config.data.source = options.source
    if optimizer in _OPTIMIZERS:
        config.train.optimizer, config.train.learning_rate = _OPTIMIZERS[optimizer]
    set_fields(config, options.set)
    return config


def _own(name: str) -> tuple[str, ...]:
    """Returns "own" for a system whose authors used an optimizer that can follow a clock."""
    # The authors of the others used Adam, or L-BFGS (TNRD), whose line search finds the rate.
    return ("own",) if name in ("ARCNN", "MemNet") else ()


def _folder(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower())


if __name__ == "__main__":
    sys.exit(main())
