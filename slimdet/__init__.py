"""The public face of slimdet: its commands and its Python interface."""

__version__ = "0.1.0"
