"""The ONNX graph: tracing, editing, NMS, uint8 input."""
