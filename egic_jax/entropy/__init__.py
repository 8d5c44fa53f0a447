"""Probability models of the latents: densities and bits, pure functions."""
