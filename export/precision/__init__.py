"""Lower precisions: FP16, INT8, FP8, and which layers stay in float."""
