"""ONNX Runtime: providers, bindings and the engine."""
