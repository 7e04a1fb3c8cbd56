from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from export.backends.onnxruntime.engine import OnnxRuntimeEngine
from export.backends.onnxruntime.providers import (
    open_session,
    placement,
    provider_settings,
    read_placement,
    require_placement,
    why_unusable,
)
from export.backends.onnxruntime.settings import OnnxRuntimeConfig
from export.errors import ExportError
from export.pictures.images import to_tensor
from tests.export.tiny import canvases

MODEL = Path("model.onnx")
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def test_every_kernel_is_counted_where_it_ran(dynamic_model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    inputs = {"images": to_tensor(canvases(2))}
    providers = provider_settings("cpu", dynamic_model.parent, None)
    model = dynamic_model.read_bytes()
    found = placement(onnxruntime, dynamic_model, model, options, providers, inputs)
    assert list(found) == [CPU]
    assert found[CPU]["Conv"] + found[CPU]["FusedConv"] == 4
    assert require_placement(dynamic_model, "cpu", found)[CPU] == sum(found[CPU].values())


def test_a_profile_is_read_by_its_kernels_alone():
    def event(name: str, provider: str, operator: str) -> dict[str, Any]:
        return {"cat": "Node", "name": name, "args": {"provider": provider, "op_name": operator}}

    events = [
        {"cat": "Session", "name": "model_run", "args": {}},
        event("conv_fence_before", CUDA, "Conv"),
        event("conv_kernel_time", CUDA, "Conv"),
        event("shape_kernel_time", CPU, "Shape"),
    ]
    assert read_placement(events) == {CUDA: {"Conv": 1}, CPU: {"Shape": 1}}


def test_shapes_and_nms_may_stay_on_the_cpu_and_convolutions_may_not():
    found = {CUDA: Counter(Conv=60), CPU: Counter(Shape=2, NonMaxSuppression=1)}
    assert require_placement(MODEL, "cuda", found) == {CUDA: 60, CPU: 3}
    found[CPU]["Conv"] = 1
    with pytest.raises(ExportError, match=r"left \{'Conv': 1\} to the CPU \(60 on CUDA"):
        require_placement(MODEL, "cuda", found)


def test_a_session_that_used_the_cpu_alone_is_no_gpu_session():
    with pytest.raises(ExportError, match=f"no node ran on {CUDA} \\(9 on {CPU}\\)"):
        require_placement(MODEL, "cuda", {CPU: Counter(Conv=9)})


def test_a_provider_that_fell_back_is_an_error_with_the_loaders_reason(capfd):
    """The runtime is a stand-in: it says on stderr what ONNX Runtime says there, and goes on."""
    import os

    class Session:
        def __init__(self, _model, **settings):
            assert not settings["enable_fallback"]
            os.write(2, b"[E] Failed to load library x with error: libcudnn.so.9: not found\n")

        def get_providers(self):
            return [CPU]

    runtime = ModuleType("onnxruntime")
    vars(runtime).update(InferenceSession=Session, __version__="1.31")
    with pytest.raises(ExportError) as caught:
        open_session(runtime, MODEL, "cuda", b"", None, [])
    assert "ONNX Runtime offers CPUExecutionProvider (libcudnn.so.9: not found); install" in str(
        caught.value
    )
    assert capfd.readouterr().err == ""  # it is in the message, so it is not shown twice


def test_what_this_machine_lacks_is_told_by_its_cause():
    import onnxruntime

    assert why_unusable(onnxruntime, "cpu") is None
    absent = ModuleType("onnxruntime")
    vars(absent).update(get_available_providers=lambda: [CPU])
    assert why_unusable(absent, "cuda") == f"this onnxruntime is made without {CUDA}"


def test_tensorrt_is_given_the_shapes_of_an_open_batch_and_cuda_behind_it(dynamic_model):
    engine = OnnxRuntimeEngine(dynamic_model, OnnxRuntimeConfig(device="tensorrt", max_batch=4))
    profile = engine._profile()
    assert profile == ("images:1x3x32x32", "images:1x3x32x32", "images:4x3x32x32")
    (first, settings), (second, _) = provider_settings("tensorrt", Path("x"), profile)
    assert (first, second) == ("TensorrtExecutionProvider", CUDA)
    assert settings["trt_profile_max_shapes"] == "images:4x3x32x32"
