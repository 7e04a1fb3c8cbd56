import pytest

from benchmarks.accuracy.size import size_mb
from export.errors import ExportError


def test_a_megabyte_is_a_million_bytes(tmp_path):
    (tmp_path / "model.onnx").write_bytes(bytes(1_500_000))
    assert size_mb(tmp_path / "model.onnx") == 1.5


def test_a_missing_artifact_is_named(tmp_path):
    with pytest.raises(ExportError, match=r"gone\.onnx: no such file"):
        size_mb(tmp_path / "gone.onnx")
