"""Layers that are to stay float are found at check, by the names that the graph will give them."""

from pathlib import Path

import pytest

from compress.checking.exported import check_keep_float
from tests.compress.smoke import assert_refused, opened_smoke

PRECISIONS = "export.precisions=[fp32, int8]"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("[bakcbone]", "keep_float[0]: no layer of the student has 'bakcbone' in its name"),
        ("[neck, '.*']", "keep_float[1]: no layer of the student has '.*' in its name (a text, no"),
        ("['']", "keep_float[0]: expected text of at least 1 character"),
        ("[detector]", "keep_float: every one of the student's 17 layers would stay float"),
        ("[backbone, neck, head]", "keep_float: every one of the student's 17 layers would"),
    ],
)
def test_parts_that_no_layer_or_every_layer_has_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: str, said: str
) -> None:
    told = [PRECISIONS, f"export.quantization.keep_float={parts}", "--check"]
    assert_refused(tmp_path, capsys, told, 2, f"export.quantization.{said}")


@pytest.mark.parametrize(
    "parts",
    ["[]", "[neck]", "[backbone.body.conv1.weight]", "[conv1.bias]", "[node_Conv_12, Conv_3, _7]"],
)
def test_parts_of_layers_and_names_that_only_the_export_gives_are_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: str
) -> None:
    told = (PRECISIONS, f"export.quantization.keep_float={parts}")
    run = opened_smoke(tmp_path, *told, quiet=False)
    check_keep_float(run, run.build_student(0))
    assert capsys.readouterr().err == ""


def test_parts_without_an_8_bit_precision_are_said_to_have_no_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = opened_smoke(tmp_path, "export.quantization.keep_float=[neck]", quiet=False)
    check_keep_float(run, run.build_student(0))
    assert "keep_float: has no effect" in capsys.readouterr().err


def test_a_key_and_its_older_name_are_not_given_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["export.calibration={count: 3, images: 4}", "--check"]
    said = "export.calibration.images: images is the older name of count, and both are given"
    assert_refused(tmp_path, capsys, told, 2, said)
