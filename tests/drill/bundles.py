"""Hostile and damaged bundles: mutated contents, models, sidecars, golden files and links.

Every file is hashed again after its mutation, so that what is wrong is the content and not a hash.
"""

import hashlib
import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from export.artifact.manifest import file_sha256
from export.bundles.packing import write_bundle
from export.graph.to_onnx import export_onnx
from export.pictures.images import to_tensor
from tests.drill.judge import run
from tests.export.tiny import canvases, tiny_detector, tiny_manifest

VERIFY = "export.verify"
DEEP: list[Any] = []
for _ in range(50):
    DEEP = [DEEP]
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1e308, -0.0, 10**400, 2**64, "", " ", "\0", "x" * 5000),
    *("\x1b[31mred\x1b[0m", "a\nb", "<script>alert(1)</script>", "../../etc/passwd", "/etc/passwd"),
    *("models/../../x", "C:\\x", "\udcff", "NaN", [], {}, [[]], {"a": 1}, [None], [1, 2], DEEP),
)
NO_GRAPH = frozenset(
    f"model {name}"
    for name in (
        *("of no bytes", "cut", "of random bytes", "that is a text", "without nodes"),
        *("without a graph", "without outputs", "without an opset", "of opset 999"),
    )
)
# Of bundle.json and of a sidecar: changes that must never end in "ok" of verify.
FATAL: dict[str, Callable[[dict[str, Any]], object]] = {
    "no artifacts": lambda bundle: bundle.update(artifacts=[]),
    "nothing expected": lambda bundle: bundle["artifacts"][0].update(expected=[]),
    "tolerance of everything": lambda bundle: bundle["artifacts"][0].update(
        tolerance={"score": 1e9, "box_px": 1e9}
    ),
    "tolerance below zero": lambda bundle: bundle["artifacts"][0]["tolerance"].update(score=-1),
    "two of a name": lambda bundle: bundle["artifacts"].append(bundle["artifacts"][0]),
    "file without a hash": lambda bundle: bundle["files"].pop(bundle["artifacts"][0]["file"]),
    "golden picture without a hash": lambda bundle: bundle["files"].pop("golden/input.npy"),
    "file outside": lambda bundle: bundle["artifacts"][0].update(file="../outside.onnx"),
    "absolute file": lambda bundle: bundle["artifacts"][0].update(file="/etc/passwd"),
    "golden outside": lambda bundle: bundle["golden"].update(input="../../../etc/passwd"),
    "listed outside": lambda bundle: bundle["files"].update({"../x": "0" * 64}),
    "other box expected": lambda bundle: bundle["artifacts"][0]["expected"].append(
        [0, 0.9, [0, 0, 1, 1]]
    ),
    "schema true": lambda bundle: bundle.update(schema=True),
}


@dataclass
class Counts:
    """What became of the bundles."""

    bundles: int = 0
    codes: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return the counts in a sentence."""
        refused = sum(
            number for (module, code), number in self.codes.items() if module == VERIFY and code
        )
        return (
            f"{self.bundles} bundles, {self.codes.total()} commands; verify refuses {refused} of "
            f"{sum(n for (module, _), n in self.codes.items() if module == VERIFY)}; "
            f"{len(self.broken)} broken promises"
        )


@dataclass(frozen=True)
class Case:
    """One bundle that was changed.

    Attributes:
        name: what was changed.
        folder: the bundle.
        fatal: whether `verify` must not say that all is well.
        graph: whether the model itself is no graph, so that no command may take it.
    """

    name: str
    folder: Path
    fatal: bool
    graph: bool = False


def make_model(folder: Path) -> Path:
    """Export a tiny model to `folder`."""
    manifest = tiny_manifest(dynamic_batch=True)
    return export_onnx(tiny_detector(), manifest, folder, to_tensor(canvases(1)))


def make_bundle(folder: Path, model: Path) -> Path:
    """Write a good bundle of one tiny model to `folder`."""
    photograph = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return write_bundle(folder, [model], photograph, name="tiny", threads=1)


def cases(good: Path, parent: Path, seed: int, count: int) -> Iterator[Case]:
    """Yield `count` changed copies of a good bundle; the folder of each is removed after it."""
    chance = random.Random(seed)
    fixed = _fixed()
    for index in range(count):
        folder = parent / f"case{index:04d}" / "bundle"
        folder.parent.mkdir(parents=True)
        shutil.copytree(good, folder)
        if index < len(fixed):
            name, change, fatal = fixed[index]
            change(folder)
        else:
            name, fatal = _at_random(folder, chance), False
        yield Case(name, folder, fatal, graph=name in NO_GRAPH)
        shutil.rmtree(folder.parent)


def commands(folder: Path, out: Path, photograph: Path) -> list[tuple[str, list[str]]]:
    """Return (module with `main`, arguments) of all that opens a bundle or a part of it."""
    model = str(next(iter(folder.glob("models/*/model.onnx")), folder / "models/x/model.onnx"))
    return [
        ("export.verify", [str(folder)]),
        ("export.verify", [str(folder), "--json"]),
        ("export.predict", [str(folder), str(photograph), "--out", str(out / "seen")]),
        ("export.predict", [model, str(photograph), "--out", str(out / "seen")]),
        ("export.lint", [model]),
        ("export.build", [model, "--precision", "fp16", "--out", str(out / "built")]),
        ("export.bundle", [model, "--golden", str(photograph), "--out", str(out / "packed")]),
        ("compress.doctor", [str(folder), model, "--runs", str(out)]),
    ]


def photograph(path: Path) -> Path:
    """Write a picture to predict on."""
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (48, 64, 3), np.uint8)).save(path)
    return path


def drill(parent: Path, seed: int, count: int) -> Counts:
    """Judge `count` changed bundles in `folder`."""
    good = make_bundle(parent / "good", make_model(parent / "model"))
    picture, counts = photograph(parent / "photo.png"), Counts()
    for case in cases(good, parent / "cases", seed, count):
        judge(case, parent / "out", picture, counts)
    return counts


def judge(case: Case, out: Path, picture: Path, counts: Counts) -> None:
    """Give one bundle to every command, and note each promise that was not kept."""
    counts.bundles += 1
    for module, arguments in commands(case.folder, out, picture):
        done = run(module, arguments)
        counts.codes[module, done.code] += 1
        broken = list(done.broken)
        accepts = module == VERIFY or (case.graph and module in ("export.lint", "export.predict"))
        if case.fatal and accepts and done.code in (0, 4):
            broken.append(f"accepted: {done.out[-100:]!r}")
        counts.broken += [f"{case.name}: {module}: {problem}" for problem in broken]


def _fixed() -> list[tuple[str, Callable[[Path], None], bool]]:
    """Return every named change: its name, the change of a folder, and whether it is fatal."""
    found: list[tuple[str, Callable[[Path], None], bool]] = []
    for name, change in FATAL.items():
        found.append((name, lambda folder, change=change: _rewrite(folder, change), True))  # type: ignore[misc]
    for text in ("", "[]", "null", "[1]", "0", '"x"', "{", "\ufeff{}", "[" * 100_000, "{}"):
        name = f"bundle.json is {text[:5]!r}"
        found.append((name, _file_writer("bundle.json", text.encode(), rehash=False), True))
    for name, content in _golden_files().items():
        found.append((f"golden picture {name}", _file_writer("golden/input.npy", content), True))
    for name, alter in _graphs().items():
        found.append((f"model {name}", _model_writer(alter), name != "with another producer"))
    for target in ("bundle.json", "golden/input.npy", "MODEL", "SIDECAR"):
        found.append((f"{target} is a link outside", _linker(target), target != "bundle.json"))
        found.append((f"{target} is gone", _remover(target), True))
    found += [
        (f"{name} is not listed", _file_writer(name, b"x", rehash=False), True)
        for name in ("evil.sh", "golden/other.npy", "numpy.py")
    ]
    return found


def _golden_files() -> dict[str, bytes]:
    def saved(array: Any, **keys: Any) -> bytes:
        stream = io.BytesIO()
        np.save(stream, array, **keys)
        return stream.getvalue()

    good = saved(np.zeros((32, 32, 3), np.uint8))
    huge = good.replace(b"(32, 32, 3), }  ", b"(99999999, 9999, 3), }"[:16])
    return {
        "is empty": b"",
        "is cut": good[:100],
        "is a text": b"hello",
        "is of floats": saved(np.zeros((32, 32, 3))),
        "is flat": saved(np.zeros(3, np.uint8)),
        "is of another size": saved(np.zeros((16, 32, 3), np.uint8)),
        "is of objects": saved(np.array([{}, None], dtype=object), allow_pickle=True),
        "states a huge shape": huge,
        "is a zip": b"PK\x03\x04" + bytes(100),
    }


def _graphs() -> dict[str, Callable[[bytes], bytes]]:
    """Return changes of a model's bytes."""

    def changed(change: Callable[[onnx.ModelProto], object]) -> Callable[[bytes], bytes]:
        def apply(content: bytes) -> bytes:
            model = onnx.load_from_string(content)
            change(model)
            return bytes(model.SerializeToString())

        return apply

    def custom(model: onnx.ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("evil.domain", 1))
        model.graph.node[0].domain = "evil.domain"

    def external(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "../../../../etc/passwd"

    def renamed(model: onnx.ModelProto) -> None:
        node = helper.make_node("Identity", [model.graph.output[0].name], ["evil"])
        model.graph.node.append(node)
        model.graph.output[0].name = "evil"

    def not_finite(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                values = numpy_helper.to_array(tensor)
                filled = numpy_helper.from_array(np.full_like(values, np.nan), tensor.name)
                tensor.CopyFrom(filled)

    def huge(model: onnx.ModelProto) -> None:
        for axis in (2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 2**40

    return {
        "of no bytes": lambda _: b"",
        "cut": lambda content: content[: len(content) // 2],
        "of random bytes": lambda _: random.Random(0).randbytes(2000),
        "that is a text": lambda _: b"hello\n",
        "without nodes": changed(lambda model: model.graph.ClearField("node")),
        "without a graph": changed(lambda model: model.ClearField("graph")),
        "without outputs": changed(lambda model: model.graph.ClearField("output")),
        "without inputs": changed(lambda model: model.graph.ClearField("input")),
        "without an opset": changed(lambda model: model.ClearField("opset_import")),
        "of opset 999": changed(lambda model: setattr(model.opset_import[0], "version", 999)),
        "of another domain": changed(custom),
        "with weights in /etc/passwd": changed(external),
        "with a renamed output": changed(renamed),
        "with a renamed input": changed(lambda model: setattr(model.graph.input[0], "name", "x")),
        "with weights of NaN": changed(not_finite),
        "of a huge input": changed(huge),
        "with another producer": changed(
            lambda model: setattr(model, "producer_name", "\x1b[31m<script>")
        ),
    }


def _at_random(folder: Path, chance: random.Random) -> str:
    """Change one thing of a bundle, seldom two; return what."""
    kind = chance.choices(("bundle", "sidecar", "bytes"), (6, 4, 2))[0]
    if kind == "bundle":
        said: list[str] = []
        _rewrite(folder, lambda content: said.append(mutate(content, chance)))
        return f"bundle.json: {said[0]}"
    model = next(folder.glob("models/*/model.onnx"))
    if kind == "sidecar":
        sidecar = model.with_suffix(".json")
        content = json.loads(sidecar.read_text())
        done = mutate(content, chance)
        sidecar.write_text(dumped(content), encoding="utf-8")
        _hash_again(folder)
        return f"model.json: {done}"
    path = chance.choice([model, folder / "golden" / "input.npy", model.with_suffix(".json")])
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 3, 30))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(bytes(data))
    _hash_again(folder)
    return f"bytes of {path.name}"


def mutate(content: Any, chance: random.Random) -> str:
    """Change, remove or add one entry somewhere in a tree of JSON; return what was done."""
    places = list(_places(content))
    owner, key = chance.choice(places)
    action = chance.choice(("replace", "replace", "replace", "remove", "add"))
    if action == "remove":
        del owner[key]
        return f"{key!r} removed"
    value = chance.choice(ODD)
    if action == "add" and isinstance(owner, dict):
        owner[chance.choice(("x", "\x1b[31m", "", "type"))] = value
        return f"a key added beside {key!r}"
    owner[key] = value
    return f"{key!r} is {str(value)[:30]!r}"


def dumped(content: object) -> str:
    """Return JSON; also of numbers that Python does not write by itself."""
    text = json.dumps(content, ensure_ascii=True, default=str)
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys: Sequence[Any] = ()
    if isinstance(tree, dict):
        keys = list(tree)
    elif isinstance(tree, list):
        keys = range(min(len(tree), 4))
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def _rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "bundle.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(dumped(content), encoding="utf-8")


def _hash_again(folder: Path) -> None:
    """Let sidecars and bundle.json state the hashes that the files now have, where they can."""
    for model in folder.glob("models/*/model.onnx"):
        with suppress(ValueError, TypeError, OSError):
            sidecar = model.with_suffix(".json")
            content = json.loads(sidecar.read_text())
            content["sha256"] = file_sha256(model)
            sidecar.write_text(dumped(content))
    path = folder / "bundle.json"
    content = json.loads(path.read_text())
    for name in content["files"]:
        if (folder / name).is_file():
            content["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(content))


def _file_writer(name: str, content: bytes, *, rehash: bool = True) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)
        if rehash:
            _hash_again(folder)

    return write


def _model_writer(alter: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        model = next(folder.glob("models/*/model.onnx"))
        model.write_bytes(alter(model.read_bytes()))
        _hash_again(folder)

    return write


def _path(folder: Path, target: str) -> Path:
    model = next(folder.glob("models/*/model.onnx"))
    return {"MODEL": model, "SIDECAR": model.with_suffix(".json")}.get(target, folder / target)


def _linker(target: str) -> Callable[[Path], None]:
    def link(folder: Path) -> None:
        path = _path(folder, target)
        outside = folder.parent / f"outside{path.suffix}"
        path.replace(outside)
        path.symlink_to(outside)

    return link


def _remover(target: str) -> Callable[[Path], None]:
    return lambda folder: _path(folder, target).unlink()
