"""A bundle whose files are not those that it lists is neither verified nor used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slimdet
from export import verify
from export.artifact.manifest import file_sha256, read_manifest
from export.bundles.packing import bundle_artifact, bundle_graphs
from export.errors import ExportError

Content = dict[str, Any]


def model_of(bundle: Path) -> Path:
    return next(bundle.glob("models/*/model.onnx"))


def rewrite(path: Path, change: Callable[[Content], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rewrite_sidecar(bundle: Path, change: Callable[[Content], object]) -> None:
    """Change the sidecar and its hash in `bundle.json`."""
    side = model_of(bundle).with_suffix(".json")
    rewrite(side, change)
    name, digest = side.relative_to(bundle).as_posix(), file_sha256(side)
    rewrite(bundle / "bundle.json", lambda b: b["files"].update({name: digest}))


def refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert verify.main([str(bundle)]) == 6
    return capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".json", ".onnx"])
def test_a_changed_file_is_not_used(bundle: Path, suffix: str) -> None:
    path = model_of(bundle).with_suffix(suffix)
    path.write_bytes(path.read_bytes() + b" ")
    for use in (bundle_artifact, bundle_graphs, slimdet.load):
        with pytest.raises(ExportError, match="damaged or changed"):
            use(bundle)


@pytest.mark.parametrize("linked", ["models", "model.onnx"])
def test_a_link_out_of_the_bundle_is_not_followed(
    bundle: Path, tmp_path: Path, linked: str
) -> None:
    path = bundle / "models" if linked == "models" else model_of(bundle)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match="a link out of the bundle"):
        slimdet.load(bundle)


@pytest.mark.parametrize(
    "name", ["evil.sh", "numpy.py", "numpy/__init__.py", "golden/other.npy", "triton/static/x"]
)
def test_an_unlisted_file_in_place_of_one_of_the_bundle_is_refused(
    bundle: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("x")
    assert f'files does not list "{name}"' in refused(bundle, capsys)


@pytest.mark.parametrize("name", ["verify.py", "build_engines.sh", "README.md", "golden/input.npy"])
def test_a_file_that_the_list_leaves_out_is_refused(
    bundle: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    rewrite(bundle / "bundle.json", lambda b: b["files"].pop(name))
    assert name in refused(bundle, capsys)


@pytest.mark.parametrize("names", [["notes.txt"], ["a/b.jpg", "venv/x.py", "models/x/model.onnx"]])
def test_other_files_are_counted(
    bundle: Path, capsys: pytest.CaptureFixture[str], names: list[str]
) -> None:
    for name in names:
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text("x")
    assert verify.main([str(bundle)]) == 0
    count = f"{len(names)} file{'s' if len(names) > 1 else ''} in its folder not checked"
    assert f'warning: {bundle}: {count}, as the bundle does not list them: "{names[0]}"' in (
        capsys.readouterr().err
    )


def test_files_of_python_systems_and_builds_are_no_strangers(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_of(bundle).parent
    (bundle / "__pycache__").mkdir()
    (folder / ".onnxruntime-tensorrt").mkdir()
    (bundle / "__pycache__" / "bundle_content.cpython-311.pyc").write_bytes(b"x")
    (folder / ".onnxruntime-tensorrt" / "x.timing").write_bytes(b"x")
    assert verify.main([str(bundle)]) == 0
    assert capsys.readouterr().err == ""
    (folder / ".DS_Store").write_bytes(b"x")
    assert verify.main([str(bundle)]) == 0
    assert "1 file in its folder not checked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "0" * 64}, "(sha256) states"),
        ({"parameters": -5}, "parameters is -5; expected a whole number from 0"),
        ({"opset": 3}, "opset is 3; expected a whole number from 10"),
        ({"category_ids": [1, 1]}, "category_ids is [1, 1]; expected"),
        ({"category_ids": [-1, 1]}, "category_ids is [-1, 1]; expected"),
    ],
)
def test_a_sidecar_that_no_export_writes_is_refused(
    bundle: Path, capsys: pytest.CaptureFixture[str], change: Content, said: str
) -> None:
    rewrite_sidecar(bundle, lambda side: side.update(change))
    assert said in refused(bundle, capsys)
    if "sha256" not in change:
        with pytest.raises(ExportError, match=next(iter(change))):
            read_manifest(model_of(bundle).with_suffix(".json"))


def test_classes_of_one_name_are_refused(bundle: Path) -> None:
    side = model_of(bundle).with_suffix(".json")
    rewrite(side, lambda content: content.update(classes=["cat", "cat"]))
    with pytest.raises(ExportError, match="classes holds 'cat' twice"):
        read_manifest(side)


@pytest.mark.parametrize("change", ["input", "output"])
def test_a_graph_of_other_tensors_than_its_sidecar_names_fails(
    bundle: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    import onnx

    model = onnx.load(model_of(bundle))
    if change == "input":
        before, model.graph.input[0].name = model.graph.input[0].name, "picture"
        for node in model.graph.node:
            node.input[:] = ["picture" if name == before else name for name in node.input]
    else:
        model.graph.output.append(onnx.ValueInfoProto(name=model.graph.node[1].output[0]))
    path = model_of(bundle)
    path.unlink()  # a hard link to the one in triton/
    path.write_bytes(model.SerializeToString())
    name, digest = path.relative_to(bundle).as_posix(), file_sha256(path)
    rewrite(bundle / "bundle.json", lambda b: b["files"].update({name: digest}))
    rewrite_sidecar(bundle, lambda side: side.update(sha256=digest))
    assert "the graph takes" in refused(bundle, capsys)
