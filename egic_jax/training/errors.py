"""What can go wrong with a run; each carries one line for the user."""


class TrainingError(RuntimeError):
  """A run cannot go on; the message says why and what to try."""


class CheckpointError(TrainingError):
  """A checkpoint cannot be written, or none can be read."""


def one_line(error: Exception) -> str:
  """Kind and text of an error, cut to what fits a message."""
  text = " ".join(str(error).split())
  text = text if len(text) <= 200 else text[:197] + "..."
  return f"{type(error).__name__}: {text}" if text else type(error).__name__
