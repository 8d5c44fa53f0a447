"""What can go wrong with a run; each carries one line for the user."""


class TrainingError(RuntimeError):
  """A run cannot go on; the message says why and what to try."""


class CheckpointError(TrainingError):
  """A checkpoint cannot be written, or none can be read."""
