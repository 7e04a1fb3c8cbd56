"""Teachers that are run once: what they said of the pictures, in files that training reads."""
