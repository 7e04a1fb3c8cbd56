"""Read the settings of a recipe as their types and from Python."""
