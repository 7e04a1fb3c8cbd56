"""Read plain data that anybody wrote, and describe in plain words what is wrong with it."""
