"""Read and write files of other programs, without running what is in them."""
