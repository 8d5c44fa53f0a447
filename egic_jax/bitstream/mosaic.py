"""The symbols of a picture, put together from those of its tiles."""

import numpy as np

from egic_jax.bitstream import latents, tiles
from egic_jax.models import presets


class Mosaic:
  """Fills up tile by tile.

  Attributes:
    symbols: those of the whole picture; 0 where no tile was added yet.
  """

  def __init__(self, config: presets.CodecConfig, z_size: tuple[int, int]):
    """`z_size`: height and width of the picture in elements of z."""
    self._scale = config.hyper_stride // config.latent_stride
    height, width = (self._scale * side for side in z_size)
    self.symbols = latents.Symbols(
      z=np.zeros((1, *z_size, config.hyper_width), np.int32),
      y=tuple(
        np.zeros((1, height, width, config.slice_channels), np.int32)
        for _ in range(config.num_slices)
      ),
    )

  def add(self, region: tiles.Region, symbols: latents.Symbols) -> None:
    """Puts a tile's symbols in their place."""
    self.symbols.z[:, *region.slices()] = symbols.z
    for whole, part in zip(self.symbols.y, symbols.y, strict=True):
      whole[:, *region.slices(self._scale)] = part
