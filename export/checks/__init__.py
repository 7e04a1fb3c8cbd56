"""Checks of an artifact: parity, precision certificate, Q/DQ lint."""
