"""What ships to the device: images in, boxes out, without torch."""
