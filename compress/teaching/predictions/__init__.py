"""Teachers that were run elsewhere: their COCO results as boxes of pictures of the data."""
