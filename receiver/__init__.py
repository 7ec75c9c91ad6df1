"""The record of what was promised and told, and the public door it comes in by."""

__version__ = "0.1.0"
