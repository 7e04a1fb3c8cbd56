"""TensorRT: settings, build, plan and engine."""
