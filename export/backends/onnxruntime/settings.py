"""Settings of the ONNX Runtime backend. Importing this loads no library."""

from typing import Literal, get_args

from export.backends.onnxruntime.devices import Device
from export.config import PositiveInt, Section, Threads

# int8-trt and fp8 are made for TensorRT: what they compute can be checked here, their speed cannot.
Precision = Literal["fp32", "fp16", "int8", "int8-trt", "fp8"]
PRECISIONS = get_args(Precision)


class OnnxRuntimeConfig(Section):
    """Settings of the ONNX Runtime backend."""

    device: Device = "cpu"
    threads: Threads | None = None  # None: the physical cores this process may use
    precision: Precision = "fp32"
    max_batch: PositiveInt = 16  # that the TensorRT provider builds for, where the batch is open
    cpu_nodes: bool = True  # False refuses a GPU session that leaves any node to the CPU
    # record a pass and replay it: device cuda, fixed batch, all on the GPU
    cuda_graph: bool = False
