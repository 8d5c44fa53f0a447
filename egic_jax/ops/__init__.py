"""Array operations without parameters: windows, attention, rounding."""
