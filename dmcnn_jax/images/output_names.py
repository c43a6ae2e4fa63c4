"""Gives results distinct names if their files' names differ only by extension or folder."""

import collections
import itertools
from collections.abc import Container, Iterator, Sequence
from pathlib import Path


def distinct_targets(
    pairs: Sequence[tuple[Path, Path]], others: Container[str] = frozenset()
) -> list[Path]:
    """Returns targets that differ from each other.

    Those of `IMG.jpg` and `IMG.jpeg` become `IMG.jpg.png` and `IMG.jpeg.png`, those of `a/IMG.jpg`
    and `b/IMG.jpg` become `a-IMG.png` and `b-IMG.png`. Names that differ only in case count as
    equal, since Windows and macOS don't distinguish them. A name depends only on the files, not on
    their order or on existing results, so that a second run finds the results of the first.

    Args:
        pairs: files, and the paths that their results would have.
        others: further paths that no result may have, in lower case (`target_key`).

    Returns:
        The target of each pair, changed if several pairs share it.
    """
    groups: dict[str, list[tuple[Path, Path]]] = collections.defaultdict(list)
    for source, target in pairs:
        groups[target_key(target)].append((source, target))
    taken = set(groups)
    renamed: dict[tuple[Path, Path], Path] = {}
    for group in groups.values():
        if len(group) > 1:
            ordered = sorted(group)
            chosen = _name_apart(ordered, taken, others)
            taken.update(map(target_key, chosen))
            renamed |= dict(zip(ordered, chosen, strict=True))
    return [renamed.get(pair, pair[1]) for pair in pairs]


def target_key(target: str | Path) -> str:
    """Returns a key that is equal for paths that Windows and macOS don't distinguish."""
    return str(target).casefold()


def _name_apart(
    pairs: Sequence[tuple[Path, Path]], taken: set[str], others: Container[str]
) -> list[Path]:
    """Returns distinct targets for files that would share one."""
    for candidates in _candidates(pairs):
        keys = set(map(target_key, candidates))
        if len(keys) == len(pairs) and not any(k in taken or k in others for k in keys):
            break
    return candidates


def _candidates(pairs: Sequence[tuple[Path, Path]]) -> Iterator[list[Path]]:
    """Yields lists of targets, one target for each file: the simplest first, numbered ones last."""
    parents = [source.absolute().parent.parts[1:] for source, _ in pairs]

    def named(length: int, whole: bool, number: int = 0) -> list[Path]:
        found = []
        for index, ((source, target), parts) in enumerate(zip(pairs, parents, strict=True)):
            name = target.name
            if whole:  # IMG.png, IMG-restored.png → IMG.jpg.png, IMG.jpg-restored.png
                name = source.name + name.removeprefix(source.stem)
            if number:
                name = f"{Path(name).stem}-{number + index}{target.suffix}"
            found.append(target.with_name("-".join([*parts[len(parts) - length :], name])))
        return found

    yield named(0, True)
    for length in range(1, max(map(len, parents)) + 1):
        yield named(length, False)
        yield named(length, True)
    for number in itertools.count(1):
        yield named(0, True, number)
