"""Training: state, stages, steps, loop, checkpoints, sharding, metrics."""
