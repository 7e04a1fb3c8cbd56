"""Teachers that are ONNX files of any package: opened, recognised and run over pictures."""
