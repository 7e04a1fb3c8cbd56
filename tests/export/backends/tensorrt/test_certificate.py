"""What a built engine computes in, by the inspector's account of its layers and their times."""

import json
import re
from typing import Any

import pytest

from export.artifact.machine import BatchProfile
from export.artifact.manifest import file_sha256, read_manifest
from export.backends.tensorrt.certificate import contradiction, engine_certificate, layer_types
from export.errors import ExportError
from tests.export.backends.tensorrt.test_build import VERSIONS, Library, source


@pytest.fixture(params=VERSIONS)
def library(request: pytest.FixtureRequest) -> Library:
    return Library(request.param)


def layer(
    name: str, taken: list[str], given: list[str], kind: str = "CaskConvolution"
) -> dict[str, Any]:
    ends = {
        key: [{"Name": "x", "Format/Datatype": words} for words in stated]
        for key, stated in (("Inputs", taken), ("Outputs", given))
    }
    return {"Name": name, "LayerType": kind, **ends}


def account(*layers: dict[str, Any]) -> str:
    return json.dumps({"Layers": layers})


MIXED = account(
    layer("cast", ["Float"], ["Half"], "Reformat"),
    layer("quantise", ["Half"], ["Int8"], "Quantize"),
    layer("conv", ["Thirty-two wide channel vectorized row major Int8 format", "Half"], ["Half"]),
    layer("head", ["Channel major FP16 format where channel % 4 == 0"], ["Row major linear FP32"]),
    layer("decode", ["Float", "Int64"], ["Float"], "kgen"),
    layer("index", ["Int32"], ["Bool"], "kgen"),
    layer("fused", ["N/A due to dynamic shapes"], ["a type of tomorrow"], "kgen"),
)


def test_a_layers_type_is_the_narrowest_type_it_reads():
    assert layer_types(MIXED) == {
        "cast": "conversion",
        "quantise": "conversion",
        "conv": "int8",
        "head": "fp16",
        "decode": "fp32",
        "index": "index",
        "fused": "other",
    }


@pytest.mark.parametrize(
    ("key", "words", "kind"),
    [
        ("Format/Datatype", "Row major linear BFloat16 format", "bf16"),
        ("Format/Datatype", "FP8", "fp8"),
        ("Datatype", "Half", "fp16"),  # TensorRT 11 has type and format apart
        ("DataType", "Int8", "int8"),
        ("Format", "Row major linear FP32 format (kLINEAR)", "fp32"),
        ("Datatype", "UInt8", "index"),
        ("Somewhere", "Half", "other"),
    ],
)
def test_types_are_read_from_every_schema(key, words, kind):
    told = {"Name": "a", "LayerType": "x", "Inputs": [{key: words}], "Outputs": []}
    assert layer_types(account(told)) == {"a": kind}


@pytest.mark.parametrize("text", ["", "[]", '{"Layers": ["conv"]}', '{"Layers": []}'])
def test_an_inspection_without_types_proves_and_contradicts_nothing(text):
    certificate = engine_certificate(text, {}, "fp16", "here")
    assert (certificate.nodes, certificate.time, certificate.measured_on) == ({}, {}, None)
    assert certificate.problem == "not proven: TensorRT stated no layer's data type"
    assert contradiction("fp16", certificate) is None


def test_time_is_shared_out_by_type_and_unknown_names_are_other():
    times = {"cast": 1.0, "conv": 4.0, "head": 2.0, "decode": 1.0, "who": 2.0}
    certificate = engine_certificate(MIXED, times, "int8", "here")
    assert certificate.nodes == {"fp16": 1, "fp32": 1, "int8": 1, "other": 1}
    expected = {"conversion": 0.1, "int8": 0.4, "fp16": 0.2, "fp32": 0.1, "other": 0.2}
    assert certificate.time == expected
    assert (certificate.measured_on, certificate.problem) == ("here", None)


@pytest.mark.parametrize(
    ("kinds", "precision", "said"),
    [
        (["Float", "Float"], "fp16", r"no layer of the engine computes in fp16 \(2 in fp32\)"),
        (["Half", "Float"], "fp32", r"some of its layers compute in fp16 \(1 in fp16, 1 in fp32\)"),
        (["Half", "Int8"], "fp16", r"compute in int8"),
        (["Half"], "int8", r"computes in int8 \(1 in fp16\)"),
    ],
)
def test_layers_that_contradict_the_precision_are_reported(kinds, precision, said):
    text = account(*(layer(f"{i}", [kind], [kind]) for i, kind in enumerate(kinds)))
    certificate = engine_certificate(text, {}, precision, None)
    assert re.search(said, str(contradiction(precision, certificate)))


def test_layers_of_unknown_type_may_hide_the_precision_so_it_is_not_proven():
    text = account(layer("a", ["Float"], ["Float"]), layer("b", ["?"], ["?"]))
    certificate = engine_certificate(text, {}, "fp16", None)
    assert contradiction("fp16", certificate) is None
    assert certificate.problem is not None
    assert certificate.problem.startswith("not proven: no layer states fp16, and 1 state no type")


def test_the_sidecar_holds_the_engines_own_certificate_at_any_batch(library, tmp_path):
    """The fake's inspector, like the real one, says nothing of an open batch without a context."""
    for batch, profile in ((1, BatchProfile()), (-1, BatchProfile(min=1, opt=2, max=4))):
        onnx = source(tmp_path / f"onnx{batch}", batch=batch)
        path = library.build(onnx, tmp_path / f"engine{batch}", profile=profile)
        certificate = read_manifest(path.with_suffix(".json")).certificate
        assert certificate.nodes == {"fp16": 1}
        assert certificate.time == {"conversion": 0.25, "fp16": 0.75}
        expected = f"TensorRT {library.trt.__version__}, layer by layer, batch {profile.opt}"
        assert (certificate.measured_on, certificate.problem) == (expected, None)
    assert library.cuda._memory == {}
    assert library.cuda._streams == {}


@pytest.mark.parametrize(
    ("precision", "types"), [("fp16", "Float"), ("fp32", "Half"), ("int8", "Half")]
)
def test_an_engine_that_contradicts_its_name_is_not_written(library, tmp_path, precision, types):
    stated = {"int8": "int8-trt"}.get(precision, precision)
    onnx = source(tmp_path / "onnx", stated, types=types)
    with pytest.raises(ExportError, match=f"{precision} was asked for, and"):
        library.build(onnx, tmp_path / "engine", precision=precision)
    assert not (tmp_path / "engine").exists()
    assert library.cuda._streams == {}


def test_an_engine_that_cannot_be_timed_is_certified_by_its_layers_alone(library, tmp_path):
    path = library.build(source(tmp_path / "onnx", broken="execute"), tmp_path / "engine", builds=2)
    manifest = read_manifest(path.with_suffix(".json"))
    assert (manifest.certificate.nodes, manifest.certificate.time) == ({"fp16": 1}, {})
    assert manifest.engine.builds is None
    assert "an illegal memory access" in manifest.engine.not_timed


def test_of_several_builds_the_fastest_is_kept_and_the_sidecar_tells_all(library, tmp_path):
    onnx = source(tmp_path / "onnx", delays_ms=[2, 0, 2])
    path = library.build(onnx, tmp_path / "engine", builds=3)
    manifest = read_manifest(path.with_suffix(".json"))
    builds = manifest.engine.builds
    assert json.loads(path.read_bytes()[4:])["delay_ms"] == 0
    assert manifest.sha256 == file_sha256(path)
    assert (builds.kept, len(builds.p50_ms), builds.batch) == (1, 3, 1)
    medians = sorted(builds.p50_ms)
    assert builds.p50_ms[1] == medians[0]
    assert builds.spread == pytest.approx((medians[2] - medians[0]) / medians[1], abs=1e-3)
