"""What is distributed besides the code: lock files, the container, the workflow that publishes."""

import configparser
import re
import shlex

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from runs import CHECKOUT

from dmcnn_jax.cli.restore_arguments import make_parser

setup = configparser.ConfigParser()
setup.read(CHECKOUT / "setup.cfg")
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()


def required(*extras):
    """Requirements that setup.cfg lists, those of its own extras resolved."""
    texts = [setup["options"]["install_requires"]]
    texts += [setup["options.extras_require"][extra] for extra in extras]
    for line in "\n".join(texts).splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.name == "dmcnn-jax":
                yield from required(*requirement.extras)
            else:
                yield requirement


def locked(name):
    """Versions and numbers of hashes in a lock file, by package."""
    found = {}
    entries = re.sub(r"\\\n", " ", (CHECKOUT / "requirements" / name).read_text()).splitlines()
    for entry in entries:
        if entry and not entry.lstrip().startswith("#"):
            package, version = re.match(r"([\w.-]+)==([\w.]+)", entry).groups()
            found.setdefault(package, []).append((Version(version), entry.count("--hash=sha256:")))
    return found


@pytest.mark.parametrize(
    ("name", "extras", "apart"),
    [("ci.txt", ["all"], {"torch"}), ("container.txt", ["openvino", "serve"], set())],
)
def test_lock_files_hold_what_is_required(name, extras, apart):
    """A requirement that changes in setup.cfg needs requirements/lock."""
    lock = locked(name)
    assert all(hashes for versions in lock.values() for _, hashes in versions)
    assert not apart & set(lock)
    for requirement in required(*extras):
        if requirement.name not in apart:
            versions = [version for version, _ in lock[requirement.name.lower()]]
            assert all(version in requirement.specifier for version in versions), requirement


def test_training_brings_what_its_pages_and_its_notebook_use():
    assert {"tensorboard", "matplotlib", "flatbuffers"} <= {r.name for r in required("train")}


def test_orbax_is_held_below_the_version_that_breaks():
    (orbax,) = (r for r in required("train") if r.name == "orbax-checkpoint")
    assert "0.12.8" in orbax.specifier and "1.0" not in orbax.specifier


def test_what_the_container_copies_exists():
    ignored = (CHECKOUT / ".dockerignore").read_text().split()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    for source in " ".join(copied).split():
        assert (CHECKOUT / source).exists(), source
        assert {f"!{source}", f"!{source}/**/*.py"} & set(ignored), source


def test_the_container_runs_a_command_of_the_package_and_not_as_root():
    last_stage = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    (entry,) = re.findall(r'^ENTRYPOINT \["(.+)"\]$', last_stage, re.MULTILINE)
    assert f"\n{entry} = " in setup["options.entry_points"]["console_scripts"]
    (user,) = re.findall(r"^USER (\S+)$", last_stage, re.MULTILINE)
    assert f" {user}\n" in last_stage.partition("USER")[0] and user not in ("root", "0")


def test_commands_of_the_container_are_understood():
    commands = re.findall(r"^#     docker run .* dmcnn (.+)$", DOCKERFILE, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        make_parser().parse_args(shlex.split(command))


def test_the_publishing_workflow_checks_what_it_publishes():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((CHECKOUT / ".github/workflows/publish.yml").read_text())
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    commands = [step.get("run", "") for step in build["steps"]]
    assert commands.index("python -m build") < commands.index(
        "python -m twine check --strict dist/*"
    )
    # Only the step that publishes may ask for an identity, and it runs nothing of the checkout.
    assert workflow["permissions"] == {"contents": "read"} and "permissions" not in build
    assert publish["permissions"] == {"id-token": "write"} and publish["needs"] == "build"
    assert not any("run" in step for step in publish["steps"])
    assert "password" not in str(workflow)
