"""What a node decides and does: the pure core and the thin shell around it."""

__version__ = "0.1.0"
