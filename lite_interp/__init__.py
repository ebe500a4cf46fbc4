"""Explain the latents of sparse autoencoders on one machine, and say how far to trust it."""

__version__ = "0.1.0"
