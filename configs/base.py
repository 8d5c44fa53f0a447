"""Every key of a training configuration, with its default; others override.

Not meant to be trained as it is: take `configs/tiny.py` (minutes on a laptop),
`configs/small_mse.py` or `configs/full_mse.py`, or override single keys on the
command line:

    egic train --config configs/tiny.py --workdir runs/tiny loss.rate_weight=2
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Returns the locked configuration that declares all keys."""
  config = ConfigDict()

  config.model = ConfigDict()
  # A name in egic_jax.models.presets: "full", "small" or "tiny".
  config.model.preset = "full"
  # Type of activations and products: "float32" or "bfloat16". Parameters,
  # optimiser moments and rates stay float32.
  config.model.compute_dtype = "float32"

  config.data = ConfigDict()
  # A TFDS data set: "synthetic_scenes" (made here, no download) or
  # "image_label_folder" (your own photographs, see data.folder).
  config.data.name = "synthetic_scenes"
  # synthetic_scenes only: its size, "default" or "tiny" (for tests).
  config.data.config = "default"
  # Where built data sets are kept; "" is TFDS's default directory.
  config.data.data_dir = ""
  # image_label_folder only: the folder, which sub-folders of it to use (none:
  # all that have images/) and not to use, how classes are merged ("union",
  # "photographs" or a JSON file), and the share of pictures for validation
  # where the folder has no lists.
  config.data.folder = ""
  config.data.sets = ()
  config.data.exclude = ()
  config.data.taxonomy = "union"
  config.data.validation_fraction = 0.05
  # Larger pictures are first reduced to this longer side; 0 for never.
  config.data.max_side = 640
  # Side of the square training crops, pixels; a multiple of 64.
  config.data.crop_size = 256
  # Crops in one step, over all devices and processes.
  config.data.batch_size = 8
  # A picture is scaled by a random factor from this range, in steps of
  # scale_step (0: any factor), before the crop; (1.0, 1.0) turns it off.
  config.data.scale_range = (0.5, 1.5)
  config.data.scale_step = 0.1
  config.data.flip = True
  # Threads that decode, and batches that are kept ready.
  config.data.num_threads = 4
  config.data.prefetch = 4
  # Keep decoded images in memory (fast, for data sets of some GiB at most).
  config.data.cache_decoded = False
  # Seed of the order, the crops and the flips.
  config.data.seed = 0

  config.loss = ConfigDict()
  # loss = distortion_weight * MSE + rate_weight * bpp, the MSE taken over
  # values 0..255. 0.1 * 2^-5 * 0.75, as released; rate_weight is lambda.
  config.loss.distortion_weight = 0.00234375
  config.loss.rate_weight = 1.0

  config.optimizer = ConfigDict()
  config.optimizer.kind = "adam"
  config.optimizer.learning_rate = 1e-4
  # The learning rate of the last final_fraction of all steps.
  config.optimizer.final_learning_rate = 1e-5
  config.optimizer.final_fraction = 0.1
  # Steps over which the learning rate rises from 0.
  config.optimizer.warmup_steps = 0
  # Gradients are scaled down to this global norm; 0 turns it off.
  config.optimizer.clip_norm = 0.0
  config.optimizer.b1 = 0.9
  config.optimizer.b2 = 0.999

  config.train = ConfigDict()
  # A name in egic_jax.training.stages.
  config.train.stage = "stage1_mse"
  config.train.steps = 2_000_000
  config.train.log_every = 100
  config.train.checkpoint_every = 5_000
  config.train.sample_every = 5_000
  # Pictures in a sample panel.
  config.train.num_samples = 4
  # Checkpoints kept, the newest ones.
  config.train.keep = 3
  # Seed of the initial parameters and of the noise.
  config.train.seed = 0
  # Work directory of an earlier run whose parameters this one starts from.
  config.train.init_from = ""

  config.mesh = ConfigDict()
  # Devices over which a batch is split; -1 is all of them.
  config.mesh.data = -1

  return config.lock()
