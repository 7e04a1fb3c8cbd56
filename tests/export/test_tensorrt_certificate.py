"""What a built engine computes in, by the inspector's account of its layers."""

import pytest

from export.backends.tensorrt_build import layer_types


@pytest.mark.parametrize("text", ["", "[]", '{"Layers": ["conv"]}', '{"Layers": [{"Name": "a"}]}'])
def test_an_account_without_types_claims_none(text):
    assert layer_types(text) == {}


def test_layers_are_counted_for_every_type_they_touch():
    linear = "Row major linear {} format"
    conv = {"Inputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8"}]}
    conv["Outputs"] = [{"Format/Datatype": linear.format("FP16")}]
    cast = {"Inputs": [{"Format/Datatype": "Half"}], "Outputs": [{"Format/Datatype": "Float"}]}
    text = f'{{"Layers": {[conv, cast]}}}'.replace("'", '"')
    assert layer_types(text) == {"fp16": 2, "fp32": 1, "int8": 1}
