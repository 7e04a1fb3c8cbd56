import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.teaching.onnx.measure import main
from tests.compress.teaching.test_onnx_detector import cells, write_graph


def test_the_ap_of_a_file_is_measured_and_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [24, 24, 16, 16], "area": 256}
        ],
    }
    (tmp_path / "data.json").write_text(json.dumps(document))
    model = write_graph(tmp_path / "x.onnx", cells([32, 32, 16, 16, 0.9, 0]))
    data, out = str(tmp_path / "data.json"), tmp_path / "out.json"
    given = {"model": str(model), "classes": ["a", "b"]}
    asked = ["--data", data, "--out", str(out), "--teacher"]
    assert main([*asked, json.dumps(given)]) == 0
    (row,) = json.loads(out.read_text())["teachers"]
    assert row["AP"] == pytest.approx(1)
    assert (row["format"], row["boxes"]) == ("ultralytics", 1)
    assert "x.onnx: ultralytics, AP 1.0000" in capsys.readouterr().out
    assert main([*asked, json.dumps({"model": str(model)})]) == 2
    assert capsys.readouterr().err.startswith("error: teacher.classes: ")
