"""What several detector families share: heads, assignment, proposals, pooling."""
