"""Discriminators: networks that tell photographs from reconstructions."""
