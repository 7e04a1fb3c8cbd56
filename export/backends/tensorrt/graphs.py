"""Which ONNX file TensorRT builds a precision from; imports nothing."""

# Precision of an engine -> precision that the sidecar of its graph states.
SOURCES = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-trt", "fp8": "fp8"}
