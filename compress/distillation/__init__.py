"""Pairing a student with its teachers, and the objective that distils."""
