"""Settings of a recipe compared with what there is: pictures, steps, processors, memory."""
