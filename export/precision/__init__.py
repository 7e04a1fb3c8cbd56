"""Lower precisions: FP16, INT8 and FP8, and the choice of layers that stay in float."""
