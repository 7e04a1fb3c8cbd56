"""Divide a data set without splits into train, val and test, stratified and by content.

Each picture gets a rank from its bytes and a seed. Classes are processed from the rarest to the
most frequent: of a class's pictures not yet assigned, those of the lowest ranks are held out until
the class has its share, at least one and never all. The division therefore does not depend on names
or order of the files or on the machine, copies of a picture stay on one side, and an added picture
moves at most one other picture of each of its classes.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.data.image_set import ImageSet
from benchmarks.data.parts.lookup import examples
from export.artifact.bundle_content import each_key_once
from export.atomic import write_json
from export.errors import DataError, counted

Side = Literal["train", "val", "test"]
Labels = frozenset[int]  # the classes of one picture

_MOST_MOVES = 3  # moves in a row to put one class on both sides
_EMPTY = -1  # in place of a class: pictures without objects are divided too
# Roboflow names the augmented copies of one photograph `photo_jpg.rf.<hash>.jpg`.
_AUGMENTED = re.compile(r"^(.+)\.rf\.[0-9a-zA-Z]{16,}\.\w+$")


@dataclass(frozen=True)
class Division:
    """The side of each picture of a set.

    Attributes:
        pool: the whole set.
        sides: side of each picture, in the set's order.
        files: each picture's file below the data set's folder.
        val: share asked for.
        test: share asked for.
        seed: seed of the ranks.
    """

    pool: ImageSet
    sides: tuple[Side, ...]
    files: tuple[str, ...]
    val: float
    test: float
    seed: int

    def of(self, side: Side) -> ImageSet:
        """Return the pictures of one side."""
        indices = [index for index, own in enumerate(self.sides) if own == side]
        source = f"{self.pool.source}, of which {len(indices)} {side}"
        return replace(self.pool.subset(indices), name=side, source=source)

    def line(self) -> str:
        """Return the division in one line."""
        counts: Counter[str] = Counter(self.sides)
        asked = {"val": self.val, "test": self.test}
        parts = [f"train {counts['train']}"]
        parts += [
            f"{side} {counts[side]} ({counts[side] / len(self.sides):.1%}; {share:.1%} asked)"
            for side, share in asked.items()
            if share
        ]
        return f"divided by content, seed {self.seed}: {', '.join(parts)}"

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values: side -> file -> sha256."""
        rows = sorted(zip(self.files, self.sides, self.pool.sha256, strict=True))
        by_side = {
            side: {file: digest for file, own, digest in rows if own == side}
            for side in ("train", "val", "test")
        }
        return {"val": self.val, "test": self.test, "seed": self.seed, "files": by_side}


def divide(pool: ImageSet, root: Path, val: float, test: float, seed: int) -> Division:
    """Divide a set; see the module's docstring for how.

    Args:
        pool: pictures in files.
        root: folder of the data set; files are recorded relative to it.
        val: share held out for validation.
        test: share held out for the final test, chosen first and so independent of `val`.
        seed: another seed gives another division.

    Raises:
        DataError: a picture cannot be read, or a side would stay empty.
    """
    pool = replace(pool, sha256=picture_hashes(pool))
    groups = _copies(pool)
    ranks = {hashlib.sha256(f"{seed}:{key}".encode()).hexdigest(): key for key in groups}
    ranked = {rank: _labels(pool, groups[ranks[rank]]) for rank in sorted(ranks)}
    sides: dict[str, Side] = dict.fromkeys(ranked, "train")
    shares: tuple[tuple[Side, float], ...] = (("test", test), ("val", val / (1 - test)))
    for side, share in shares:
        if share:
            rest = {rank: own for rank, own in ranked.items() if sides[rank] == "train"}
            held = hold_out(rest, share)
            if not held:
                left = " that test leaves" if side == "val" and test else ""
                raise DataError(
                    f"{pool.source}: data.split leaves no picture for {side}: of "
                    f"{counted(len(rest), 'different picture')}{left} no two show the same class. "
                    "Add pictures"
                )
            sides.update(dict.fromkeys(held, side))
    side_of = {index: sides[rank] for rank, key in ranks.items() for index in groups[key]}
    return Division(
        pool,
        tuple(side_of[index] for index in range(len(pool))),
        tuple(relative_file(path, root) for path in pool.paths),
        val,
        test,
        seed,
    )


def keep_division(division: Division, path: Path) -> None:
    """Write a division to `path`, or compare it with the one written there before.

    Raises:
        DataError: the pictures or their sides have changed since.
    """
    now = division.to_dict()
    if path.exists():
        before, after = read_division(path), _sides(now)
        changed = sorted(f for f in {*before, *after} if before.get(f) != after.get(f))
        if changed:
            raise DataError(
                f"{path}: this run began with other pictures: "
                f"{counted(len(changed), 'file was', 'files were')} added, removed or changed "
                f"({examples(changed)}), which may have moved others between "
                "train and val. Put the pictures back, or choose another name for the run"
            )
    write_json(now, path)


def read_division(path: Path) -> dict[str, tuple[str, str]]:
    """Return file -> (side, sha256) of a division that a run wrote down.

    Raises:
        DataError: no such file, or not what `keep_division` writes.
    """
    try:
        return _sides(json.loads(path.read_bytes(), object_pairs_hook=each_key_once))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; a run's split.json was expected here") from None
    except KeyError as error:
        raise DataError(f"{path}: is no split.json of a run: it has no {error}") from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as a run's split.json: {error}") from None


def _sides(written: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    files = written["files"]
    if not isinstance(files, dict):
        raise TypeError("files should map each side to its files")
    return {file: (side, sha) for side, own in files.items() for file, sha in own.items()}


def relative_file(path: Path, root: Path) -> str:
    """Return how a division names a file: below the data set's folder, if it lies there."""
    inside = path.is_relative_to(root)
    return (path.relative_to(root) if inside else path).as_posix()


def hold_out(ranked: Mapping[str, Labels], share: float) -> set[str]:
    """Choose which pictures to hold out.

    Args:
        ranked: the classes of each picture, keyed and sorted by rank.
        share: part of each class's pictures to hold out.

    Returns:
        Ranks of the pictures held out. Each class on two pictures or more is on both sides
        where `_MOST_MOVES` moves can bring it there; doing so in general is NP-hard.
    """
    with_class: dict[int, list[str]] = {}
    for rank, labels in ranked.items():
        for label in labels:
            with_class.setdefault(label, []).append(rank)
    rarest_first = sorted(with_class, key=lambda label: (len(with_class[label]), label))
    held: set[str] = set()
    placed: set[str] = set()
    for label in rarest_first:
        own = with_class[label]
        free = [rank for rank in own if rank not in placed]
        wanted = _target(len(own), share) - sum(rank in held for rank in own)
        held.update(free[: max(wanted, 0)])
        placed.update(free)
    for label in rarest_first:
        _put_on_both_sides(label, ranked, with_class, held)
    return held


def _target(count: int, share: float) -> int:
    """Return how many of a class's pictures to hold out: the nearest to its share in 1..n-1."""
    return min(max(int(share * count + 0.5), 1), count - 1)


def _put_on_both_sides(
    label: int,
    ranked: Mapping[str, Labels],
    with_class: Mapping[int, Sequence[str]],
    held: set[str],
    moved: frozenset[str] = frozenset(),
) -> bool:
    """Move a picture of a class that is on one side only, and others as this requires.

    Returns:
        Whether the class, and all classes of the pictures moved, are on both sides now. If not,
        `held` is as before. A class on a single picture needs nothing.
    """
    own = with_class[label]
    inside = [rank in held for rank in own]
    if len(own) < 2 or (any(inside) and not all(inside)):
        return True
    if len(moved) == _MOST_MOVES:
        return False
    before = set(held)
    for rank in reversed(own) if all(inside) else own:
        if rank in moved:
            continue
        held.symmetric_difference_update({rank})
        mates = sorted(ranked[rank])
        if all(_put_on_both_sides(m, ranked, with_class, held, moved | {rank}) for m in mates):
            return True
        held.clear()
        held.update(before)
    return False


def _labels(pool: ImageSet, members: Sequence[int]) -> Labels:
    """Return the classes of a picture and its copies; crowd boxes do not count."""
    found: set[int] = set()
    for index in members:
        image = pool.images[index]
        found.update(image.labels[~image.crowd].tolist())
    return frozenset(found or {_EMPTY})


def _copies(pool: ImageSet) -> dict[str, list[int]]:
    """Group pictures of the same bytes, and Roboflow's augmented copies of one photograph.

    Returns:
        The least hash of each group -> indices of its pictures.
    """
    first: dict[str, int] = {}  # hash or photograph -> the first picture that has it
    group = list(range(len(pool)))

    def root(index: int) -> int:
        while group[index] != index:
            index = group[index]
        return index

    for index, digest in enumerate(pool.sha256):
        photograph = photograph_of(pool.images[index].file_name)
        for mark in (digest, *([photograph] if photograph else [])):
            a, b = sorted((root(index), root(first.setdefault(mark, index))))
            group[b] = a
    members: dict[int, list[int]] = {}
    for index in range(len(pool)):
        members.setdefault(root(index), []).append(index)
    return {min(pool.sha256[i] for i in own): own for own in members.values()}


def photograph_of(file_name: str) -> str | None:
    """Return the name of the photograph that Roboflow made a picture from; None for other names."""
    augmented = _AUGMENTED.match(file_name.rpartition("/")[2])
    return augmented.group(1) if augmented else None


def picture_hashes(pool: ImageSet) -> tuple[str, ...]:
    """Return the sha256 of each picture file, reading only files whose hash is unknown.

    Raises:
        DataError: files that cannot be read.
    """
    if pool.sha256:
        return pool.sha256
    with ThreadPoolExecutor(4) as threads:
        digests = list(threads.map(file_hash, pool.paths))
    lost = [str(p) for p, digest in zip(pool.paths, digests, strict=True) if digest is None]
    if lost:
        raise DataError(
            f"{pool.source}: {counted(len(lost), 'picture file')} cannot be read: {examples(lost)}"
        )
    return tuple(digest for digest in digests if digest is not None)


def file_hash(path: Path) -> str | None:
    """Return the sha256 of a file; None if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
