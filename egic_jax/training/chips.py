"""TPU chips as published, and the least time that work takes on one."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published figures of one chip.

  From Google's pages on each generation (docs.cloud.google.com/tpu/docs/v5e and
  so on); the links of v4 from Jouppi et al., TPU v4, ISCA 2023.

  Attributes:
    name: the generation.
    peak_flops: products and sums a second, bfloat16.
    hbm_bytes_per_second: bandwidth of its memory.
    hbm_bytes: size of its memory.
    link_bytes_per_second: to other chips of the slice, all links together, one
      direction (the pages give both directions, twice this).
  """

  name: str
  peak_flops: float
  hbm_bytes_per_second: float
  hbm_bytes: int
  link_bytes_per_second: float


CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v4", 275e12, 1200e9, 32 * GIB, 300e9),
    Chip("v5e", 197e12, 819e9, 16 * GIB, 200e9),
    Chip("v5p", 459e12, 2765e9, 95 * GIB, 600e9),
    Chip("v6e", 918e12, 1638e9, 32 * GIB, 400e9),
  )
}


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds that a step takes at least, from one chip's published peak rates.

  Attributes:
    compute: all products at the bfloat16 rate.
    memory: all operands and results of the program's parts at the memory's
      rate. Parts that stay on the chip are counted, too, so this is too high
      where the compiler keeps much there.
    links: what collectives send, at the rate of all links together.
  """

  compute: float
  memory: float
  links: float

  @property
  def step(self) -> float:
    """The slowest of the three; they can overlap."""
    return max(self.compute, self.memory, self.links)

  @property
  def bound(self) -> str:
    """Which one that is."""
    times = dataclasses.asdict(self)
    return max(times, key=times.get)


def roofline(
  chip: Chip,
  *,
  flops: float,
  bytes_accessed: float,
  sent_bytes: float,
) -> Roofline:
  """Least times of a step.

  Args:
    chip: what it runs on.
    flops: products and sums of one chip.
    bytes_accessed: what one chip reads and writes.
    sent_bytes: what one chip sends to others.

  Returns:
    Roofline.
  """
  return Roofline(
    compute=flops / chip.peak_flops,
    memory=bytes_accessed / chip.hbm_bytes_per_second,
    links=sent_bytes / chip.link_bytes_per_second,
  )
