"""Networks as Flax (linen) modules; sizes come from `presets`."""
