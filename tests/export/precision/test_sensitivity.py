from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.artifact.manifest import read_manifest
from export.engine import open_engine
from export.graph.to_onnx import export_onnx
from export.pictures.images import to_tensor
from export.precision.int8 import open_quantizer
from export.precision.sensitivity import Layer, limit_drop, measure_layers
from tests.export.tiny import TinyDetector, canvases, tiny_manifest

pytestmark = pytest.mark.slow  # exports a model


class Deep(TinyDetector):
    """Three more convolutions in the middle, of which one has a channel far larger than the others.

    The small channels have large weights in the next layer, so that losing them costs some 20 dB
    more than the rounding of weights does, be it to 8 bits or to the 7 that a processor without
    VNNI needs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 1)
        with torch.no_grad():
            self.first.weight[0] *= 400  # one range for all channels of an activation
            self.second.weight[:, 0] /= 400
            self.second.weight[:, 1:] *= 8

    def candidates(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.norm(self.stem(images)).relu()
        features = self.second(self.first(features).relu()).relu()
        features = self.shared(self.shared(features)).relu()
        return self.predict(self.body(features).relu())

    def predict(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores, labels = self.classes(features).flatten(2).sigmoid().max(dim=1)
        reach = self.edges(features).flatten(2).transpose(1, 2).exp() * 4
        centres = self.get_buffer("centres")
        boxes = torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], dim=-1)
        return boxes.clamp(0, 32), scores, labels


@pytest.fixture(scope="module")
def quantizer(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("deep")
    path = export_onnx(Deep(), tiny_manifest(), folder / "fp32", to_tensor(canvases(1)))
    return open_quantizer(path, canvases(4), folder / "int8")


def test_nodes_that_share_a_weight_are_one_layer(quantizer):
    layers = {layer.name: layer for layer in measure_layers(quantizer, canvases(2))}
    assert set(layers) == {f"{name}.weight" for name in ("first", "second", "shared", "body")}
    assert len(layers["shared.weight"].nodes) == 2
    assert len(quantizer.nodes) == 5


def test_the_layers_around_the_small_channels_have_the_largest_error(quantizer):
    layers = sorted(measure_layers(quantizer, canvases(2)), key=lambda layer: -layer.noise)
    assert {layer.name for layer in layers[:2]} == {
        "first.weight",
        "second.weight",
    }  # output, input
    assert layers[1].sqnr_db < layers[2].sqnr_db - 10


def test_the_default_bits_of_weights_do_not_saturate_on_this_processor(quantizer):
    default = {layer.name: layer.sqnr_db for layer in measure_layers(quantizer, canvases(2))}
    seven = measure_layers(replace(quantizer, reduced=True), canvases(2))  # saturate nowhere
    for layer in seven:
        assert default[layer.name] > layer.sqnr_db - 3  # saturation costs 30


def test_no_noise_is_two_hundred_decibels():
    assert Layer("a", ()).sqnr_db == 200
    assert Layer("a", (), noise=0.01).sqnr_db == pytest.approx(20)


def quantised_nodes(path) -> int:
    manifest = read_manifest(path.with_suffix(".json"))
    return 0 if manifest.precision == "fp32" else manifest.quantization["nodes_quantized"]


@pytest.mark.parametrize(
    ("most", "restored"),  # AP is 0.9 with at most so many INT8 nodes, else 0.8
    [(5, 0), (4, 1), (2, 3)],
)
def test_as_few_layers_as_will_do_are_restored(quantizer, tmp_path, most, restored):
    held = limit_drop(
        quantizer, canvases(2), lambda path: 0.9 if quantised_nodes(path) <= most else 0.8, 0.5
    )
    record = held.record
    assert record["layers_restored"] == restored
    assert [layer["restored"] for layer in record["layers"]] == [
        place < restored for place in range(4)
    ]
    assert (record["ap_fp32"], record["ap"]) == (90, 90)
    assert record["ap_all_quantized"] == (90 if restored == 0 else 80)
    assert ("price" in record) == (restored > 0)
    assert held.nodes is not None
    path = quantizer.write(tmp_path, held.nodes, record, canvases(1)[0])
    assert quantised_nodes(path) == len(held.nodes) <= most
    with open_engine(path, threads=1) as engine:
        assert np.isfinite(engine.candidates(to_tensor(canvases(1))).scores).all()


def test_an_ap_drop_that_cannot_be_held_is_reported(quantizer):
    held = limit_drop(
        quantizer, canvases(2), lambda path: 0.9 if quantised_nodes(path) == 0 else 0.8, 0.5
    )
    assert held.nodes is None
    assert held.record["held"] is False
    assert [check["restored"] for check in held.record["checks"]] == [0, 3]


def test_without_labels_nothing_is_restored(quantizer):
    held = limit_drop(quantizer, canvases(1), lambda _: None, 0.5)
    assert held.nodes == quantizer.nodes
    assert held.record["ap_fp32"] is None
