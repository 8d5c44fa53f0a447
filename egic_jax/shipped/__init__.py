"""Models that come with the package: NAME.safetensors, and default.txt."""
