"""8-bit weights on a processor whose sums of products have 16 bits: never without a word."""

import json
import shutil
from pathlib import Path

import pytest

import slimdet
from benchmarks.measure import _cautions
from compress.doctor import bundle, engine
from export import verify
from export.artifact import int8_range
from export.artifact.int8_range import saturates, saturation, saturation_at
from export.artifact.manifest import read_manifest
from export.bundles.packing import write_bundle
from export.engine import open_engine
from export.precision.int8 import Int8Settings, quantize_int8
from export.predict import main as predict
from tests.export.tiny import canvases

SAID = "its INT8 weights have 8 bits, and this processor has no VNNI"


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "found"),
    [
        ("x86_64", "flags : fpu avx2", True),
        ("AMD64", "flags : avx512f avx512bw", True),
        ("x86_64", "flags : avx512f avx512_vnni", False),
        ("x86_64", "flags : avx_vnni", False),
        ("aarch64", "Features : fp asimd asimddp", False),
        ("riscv64", "isa : rv64imafdc", False),
        ("arm64", None, False),
        ("AMD64", None, None),
    ],
)
def test_x86_without_vnni_saturates(machine, cpuinfo, found):
    assert saturates(machine, cpuinfo) is found


@pytest.mark.parametrize(
    ("sidecar", "device", "here", "warned"),
    [
        ({"precision": "int8", "quantization": {"weight_bits": 8}}, "cpu", True, True),
        ({"precision": "int8", "quantization": {"weight_bits": 8}}, "cpu", False, False),
        ({"precision": "int8", "quantization": {"weight_bits": 8}}, "cpu", None, False),
        ({"precision": "int8", "quantization": {"weight_bits": 8}}, "cuda", True, False),
        ({"precision": "int8", "quantization": {"weight_bits": 7}}, "cpu", True, False),
        ({"precision": "int8-trt", "quantization": {"weight_bits": 8}}, "cpu", True, False),
        ({"precision": "fp32", "quantization": {}}, "cpu", True, False),
        ({"precision": "int8", "quantization": 3}, "cpu", True, False),
    ],
)
def test_only_what_overflows_is_warned_of(sidecar, device, here, warned):
    said = saturation(sidecar, device, here)
    assert (said is not None) is warned
    assert said is None or (SAID in said and "--weight-bits 7" in said)


@pytest.fixture(scope="module")
def artifacts(dynamic_model, tmp_path_factory) -> dict[int, Path]:
    """The same model with weights of 7 and of 8 bits."""
    folder = tmp_path_factory.mktemp("int8")
    return {
        bits: quantize_int8(
            dynamic_model, canvases(2), folder / f"{bits}", Int8Settings(reduce_range=bits == 7)
        )
        for bits in (7, 8)
    }


def test_the_sidecar_states_the_range(artifacts):
    for bits, path in artifacts.items():
        assert read_manifest(path.with_suffix(".json")).quantization["weight_bits"] == bits


def without_vnni(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "cpuinfo").write_text("flags : fpu avx2")
    monkeypatch.setattr(int8_range, "_CPUINFO", folder / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.mark.parametrize("bits", [7, 8])
def test_every_command_that_opens_it_warns(artifacts, bits, tmp_path, monkeypatch, capsys):
    without_vnni(monkeypatch, tmp_path)
    path = artifacts[bits]
    warned = bits == 8
    assert (SAID in (saturation_at(path, "cpu") or "")) is warned
    with open_engine(path, threads=1) as opened:
        assert any(f"small: {SAID}" in line for line in _cautions({"small": opened})) is warned
    (found,) = engine(path)
    assert (found.state, SAID in found.said) == ("note" if warned else "ok", warned)
    if warned:
        with pytest.warns(UserWarning, match=SAID):
            slimdet.load(path, threads=1).close()
    else:
        slimdet.load(path, threads=1).close()
    packed = write_bundle(tmp_path / "b", [path], canvases(1)[0], name="tiny", threads=1)
    assert any(SAID in finding.said for finding in bundle(packed, tmp_path)) is warned
    assert verify.main([str(packed)]) == 0
    assert (f"warning: {SAID}" in capsys.readouterr().out) is warned
    assert predict([str(path), str(packed / "golden"), "--out", str(tmp_path / "p")]) == 0
    assert (f"warning: {path}: {SAID}" in capsys.readouterr().err) is warned


def test_a_sidecar_that_cannot_be_read_is_no_concern_of_this(artifacts, tmp_path, monkeypatch):
    without_vnni(monkeypatch, tmp_path)
    assert saturation_at(tmp_path / "model.onnx", "cpu") is None
    path = Path(shutil.copytree(artifacts[8].parent, tmp_path / "copy")) / "model.onnx"
    for text in ("[]", "{", json.dumps({"precision": "int8"})):
        path.with_suffix(".json").write_text(text)
        assert saturation_at(path, "cpu") is None
