"""What several distillation losses share: masks, level matching, alignment, schedules."""
