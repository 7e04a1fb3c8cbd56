"""Find pictures of val that are also learnt from: in train, without labels, or by a teacher."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data.division import file_hash, photograph_of
from benchmarks.data.image_set import ImageSet
from benchmarks.data.parts.lookup import examples
from benchmarks.data.shapes import PlacedImages
from export.errors import DataError, counted

_THREADS = 4

Names = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Repetitions:
    """Pictures that stand in several sets, or twice in one; named as in val, or in their set.

    Attributes:
        leaks: "train and val", "unlabeled and val", "teacher train and val" -> pictures of val
            whose bytes are in the other set too.
        alike: the same pairs -> other pictures of val that Roboflow's names call copies of a
            photograph in the other set.
        repeated: set of the student -> pictures that are in it twice or more.
    """

    leaks: dict[str, tuple[str, ...]]
    alike: dict[str, tuple[str, ...]]
    repeated: dict[str, tuple[str, ...]]


def find_repetitions(own: Mapping[str, ImageSet], taught: Mapping[str, ImageSet]) -> Repetitions:
    """Compare val with every set that is learnt from, by content and by name.

    Pictures in files are compared by size first; those of equal size are read. Drawn pictures are
    compared by name, which states how each is drawn.

    Args:
        own: the student's sets by role; one is "val".
        taught: training sets of teachers with other data, by the teacher's name.

    Raises:
        DataError: picture files that cannot be read at all.
    """
    keys = _keys(own, taught)
    names = {role: names_of(image_set) for role, image_set in own.items()}
    held: dict[str, str] = {}
    for key, name in zip(keys["val"], names["val"], strict=True):
        held.setdefault(key, name)
    learnt_from = {role: image_set for role, image_set in own.items() if role != "val"}
    leaks, alike = {}, {}
    for role, image_set in {**learnt_from, **taught}.items():
        pair = f"{role} train and val" if role in taught else f"{role} and val"
        shared = held.keys() & set(keys[role])
        if shared:
            leaks[pair] = tuple(sorted(held[key] for key in shared))
        photographs = {photograph_of(name) for name in names_of(image_set)} - {None}
        copies = {
            name
            for key, name in zip(keys["val"], names["val"], strict=True)
            if photographs and key not in shared and photograph_of(name) in photographs
        }
        if copies:
            alike[pair] = tuple(sorted(copies))
    repeated = {}
    for role, own_names in names.items():
        counts, first = Counter(keys[role]), dict[str, str]()
        for key, name in zip(keys[role], own_names, strict=True):
            first.setdefault(key, name)
        twice = sorted({first[key] for key, count in counts.items() if count > 1})
        if twice:
            repeated[role] = tuple(twice)
    return Repetitions(leaks, alike, repeated)


def leak_warnings(leaks: Names, alike: Names) -> list[str]:
    """Return a sentence for each pair of sets that share pictures; see `Repetitions`."""
    found = []
    for pair, names in leaks.items():
        who = counted(len(names), "picture of val is", "pictures of val are")
        found.append(f"{who} also in {_other(pair)} ({examples(names)}): {_effect(pair)} too high")
    for pair, names in alike.items():
        who = counted(len(names), "picture of val has a name", "pictures of val have names")
        found.append(
            f"{who} that Roboflow gives to copies of a "
            f"photograph in {_other(pair)} ({examples(names)}): if they are copies, "
            f"{_effect(pair)} too high"
        )
    return found


def names_of(image_set: ImageSet) -> list[str]:
    """Return the name of every picture, without placing the objects of drawn ones."""
    images = image_set.images
    if isinstance(images, PlacedImages):
        return images.names()
    return [image.file_name for image in images]


def _other(pair: str) -> str:
    return pair.removesuffix(" and val")


def _effect(pair: str) -> str:
    teacher, space, _ = _other(pair).partition(" train")
    if not space:
        return "AP on val will be"
    return f"AP on val of {teacher}, and of students distilled from it, will be"


def _keys(own: Mapping[str, ImageSet], taught: Mapping[str, ImageSet]) -> dict[str, list[str]]:
    """Return a key for every picture: those of two pictures are equal where the pictures are."""
    files = {role: s.paths for role, s in {**own, **taught}.items() if s.draw is None}
    sizes = _sizes({**own, **taught})
    known: dict[Path, str] = {}
    for image_set in {**own, **taught}.values():
        known.update(zip(image_set.paths, image_set.sha256, strict=False))  # none, or all
    among = Counter(sizes[path] for path in {path for role in own for path in files.get(role, ())})
    held = {sizes[path] for path in files.get("val", ())}
    doubtful = {size for size, count in among.items() if count > 1}
    wanted = set[Path]()
    for role in taught.keys() & files.keys():
        others = {path for path in files[role] if sizes[path] in held} - {*files.get("val", ())}
        wanted |= others
        doubtful |= {sizes[path] for path in others}
    wanted |= {path for role in own for path in files.get(role, ()) if sizes[path] in doubtful}
    unread = sorted(wanted - known.keys())
    with ThreadPoolExecutor(_THREADS) as threads:
        digests = dict(zip(unread, threads.map(file_hash, unread), strict=True))
    _refuse_lost({**own, **taught}, {path for path, digest in digests.items() if digest is None})
    known.update({path: digest for path, digest in digests.items() if digest is not None})
    return {
        role: [known.get(path, str(path)) for path in files[role]]
        if role in files
        else names_of(image_set)
        for role, image_set in {**own, **taught}.items()
    }


def _sizes(sets: Mapping[str, ImageSet]) -> dict[Path, int]:
    """Return the bytes of every picture file."""
    sizes: dict[Path, int] = {}
    paths = {path for image_set in sets.values() for path in image_set.paths}
    for path in paths:
        with suppress(OSError):
            sizes[path] = path.stat().st_size
    _refuse_lost(sets, paths - sizes.keys())
    return sizes


def _refuse_lost(sets: Mapping[str, ImageSet], lost: set[Path]) -> None:
    for image_set in sets.values():
        own = [str(path) for path in dict.fromkeys(image_set.paths) if path in lost]
        if own:
            files = counted(len(own), "picture file")
            raise DataError(f"{image_set.source}: {files} cannot be read: {examples(own)}")
