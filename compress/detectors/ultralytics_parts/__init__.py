"""Models of the package `ultralytics`: their layers, losses and names of weights."""
