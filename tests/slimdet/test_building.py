from pathlib import Path
from typing import Any

import pytest

import slimdet
from export.artifact.manifest import read_manifest
from tests.benchmarks.test_run import write_model
from tests.export.conftest import exported as exported
from tests.export.conftest import static_model as static_model
from tests.export.test_predict import pictures as pictures


@pytest.mark.slow
def test_an_exported_model_is_built_in_another_precision_and_opens(
    static_model: Path, pictures: Path, tmp_path: Path
) -> None:
    built = slimdet.export(
        static_model, tmp_path / "int8", precision="int8", images=pictures, count=2, seed=5
    )
    manifest = read_manifest(built.with_suffix(".json"))
    assert (manifest.precision, manifest.backend) == ("int8", "onnxruntime")
    assert manifest.quantization["images"] == 2
    float_model, quantised = slimdet.load(static_model), slimdet.load(built)
    picture = pictures / "a.png"
    before, after = (m.predict(picture, threshold=0.0)[0] for m in (float_model, quantised))
    assert len(before) > 0
    assert len(after) > 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "int4"}, "precision 'int4': expected one of"),
        ({"precision": "int8", "backend": "onnxruntime"}, "needs pictures"),
        ({"precision": "int8", "backend": "openvino"}, "expected one of onnxruntime, tensorrt"),
        ({"precision": "int8", "images": "x", "count": 0}, "at least 1"),
        ({"precision": "int8", "images": "x", "seed": -1}, "seed -1: expected at least 0"),
    ],
)
def test_what_cannot_be_built_is_refused_as_an_error(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    model = write_model(tmp_path / "model" / "model.onnx")
    with pytest.raises(slimdet.ExportError, match=said):
        slimdet.export(model, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
