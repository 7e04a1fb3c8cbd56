import re

import numpy as np
import pytest

from export.artifact.manifest import InputSpec
from export.atomic import write_checked_json
from export.precision.prepare import prepare
from export.precision.ranges import activation_ranges, calibration_key
from tests.export.tiny import canvases

SPEC = InputSpec(height=32, width=32)


@pytest.fixture(scope="module")
def model(dynamic_model):
    return prepare(dynamic_model)


def test_a_second_calibration_comes_from_the_cache(model, tmp_path):
    first = activation_ranges(model, canvases(3), SPEC, "minmax", cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    assert activation_ranges(model, canvases(3), SPEC, "minmax", cache=tmp_path) == first
    marked = dict.fromkeys(first, (-7.0, 7.0))
    write_checked_json(marked, kept)
    assert activation_ranges(model, canvases(3), SPEC, "minmax", cache=tmp_path) == marked


def test_the_key_depends_on_pictures_weights_and_settings(model):
    def key(model=model, count=2, method="minmax", symmetric=False):
        return calibration_key(model, canvases(count), method, symmetric=symmetric)

    other = type(model)()
    other.CopyFrom(model)
    raw = bytearray(other.graph.initializer[0].raw_data)
    raw[0] ^= 1
    other.graph.initializer[0].raw_data = bytes(raw)
    keys = {key(), key(count=3), key(method="entropy"), key(symmetric=True), key(other)}
    assert len(keys) == 5
    assert key() == key()


@pytest.mark.parametrize("how", ["cut", "another digit", "of an earlier version"])
def test_a_damaged_cache_is_made_again(model, tmp_path, how):
    first = activation_ranges(model, canvases(1), SPEC, "minmax", cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    text = kept.read_text()
    digit = re.sub(r"(: \[\S*)([0-8])", lambda m: f"{m[1]}{int(m[2]) + 1}", text, count=1)
    assert digit != text
    damaged = {"cut": text[:-9], "another digit": digit, "of an earlier version": "{}"}
    kept.write_text(damaged[how])
    assert activation_ranges(model, canvases(1), SPEC, "minmax", cache=tmp_path) == first
    assert kept.read_text() == text


def test_the_range_of_the_input_is_that_of_the_pictures(model):
    low, high = activation_ranges(model, canvases(20), SPEC, "minmax")["images"]
    pictures = np.stack(canvases(20)) / 255
    assert (low, high) == pytest.approx((pictures.min(), pictures.max()))


def test_percentiles_leave_out_what_minmax_takes(model):
    widest = activation_ranges(model, canvases(20), SPEC, "minmax")
    narrow = activation_ranges(model, canvases(20), SPEC, "percentile")
    assert all(high <= widest[name][1] + 1e-3 for name, (_, high) in narrow.items())
