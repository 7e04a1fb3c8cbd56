"""Teachers that are run once: what they found on the pictures, in files that training reads."""
