"""Every key of a training configuration, with its default; others override.

Not meant to be trained as it is: take `configs/tiny.py` (minutes on a laptop),
`configs/small_mse.py` or `configs/full_mse.py`, or one of the other stages, or
override single keys on the command line:

    egic train --config configs/tiny.py --workdir runs/tiny loss.rate_weight=2
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Returns the locked configuration that declares all keys."""
  config = ConfigDict()

  config.model = ConfigDict()
  # A name in egic_jax.models.presets: "full", "small" or "tiny".
  config.model.preset = "full"
  # Stages 0 and 2: a name in egic_jax.models.discriminators.presets, the same
  # three; how its convolutions are normalised ("weight", "spectral" or "none");
  # and how it is given the latent ("projection", "concatenation" or "none").
  # Its classes are those of the data, its latent that of model.preset.
  config.model.discriminator_preset = "full"
  config.model.normalization = "weight"
  config.model.conditioning = "projection"
  # Levels of quality that one codec is trained for, at least 2; 0 for one rate,
  # as in the paper.
  config.model.rate_levels = 0
  # Type of activations and products: "float32" or "bfloat16". Parameters,
  # optimiser moments and rates stay float32; on a CPU activations, too: there
  # only factors of products are rounded.
  config.model.compute_dtype = "float32"

  config.data = ConfigDict()
  # A TFDS data set: "synthetic_scenes" (made here, no download), "coco" (first:
  # egic prepare-coco) or "image_label_folder" (your own photographs, see
  # data.folder). Stages 0 and 2 use pictures with a label map only.
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
  # Larger pictures are first reduced to this longer side; 0 for never. With
  # enlarge, smaller ones are enlarged to it.
  config.data.max_side = 640
  config.data.enlarge = False
  # What is beyond the edge of a picture that is smaller than a crop: "reflect"
  # or "mean" (the mean pixel, void).
  config.data.padding = "reflect"
  # Colour augmentation, a name in egic_jax.data.color.POLICIES; "" for none.
  config.data.color_policy = ""
  # Side of the square training crops, pixels; a multiple of 64.
  config.data.crop_size = 256
  # Crops in one step, over all devices and processes; stage 2 gives one half
  # to the discriminator and the other to g_s.
  config.data.batch_size = 8
  # A picture is scaled by a random factor from this range, in steps of
  # scale_step (0: any factor), before the crop; (1.0, 1.0) turns it off.
  config.data.scale_range = (0.5, 1.5)
  config.data.scale_step = 0.1
  config.data.flip = True
  # Threads that decode, and batches that are kept ready; and processes beside
  # this one that do so, each with as many, where Python's threads are too slow
  # for an accelerator (benchmarks/log.md). 0 for none: they take seconds to
  # start. Batches do not depend on any of this.
  config.data.num_workers = 0
  config.data.num_threads = 4
  config.data.prefetch = 4
  # Keep decoded images in memory (fast, for data sets of some GiB at most).
  config.data.cache_decoded = False
  # Seed of the order, the crops and the flips.
  config.data.seed = 0

  config.loss = ConfigDict()
  # Stages 1 and 2: distortion_weight * MSE + rate_weight * bpp + lpips_weight *
  # LPIPS (not in stage1_mse) + adversarial_weight * cross-entropy of D(x_hat)
  # and the label map (stage 2). The MSE is taken over values 0..255; 0.1 * 2^-5
  # * 0.75, as released; rate_weight is lambda. Stage 3 has the MSE alone.
  config.loss.distortion_weight = 0.00234375
  config.loss.rate_weight = 1.0
  # With model.rate_levels, instead of distortion_weight: at the lowest and at
  # the highest quality; pictures of a batch are spread over all of them.
  config.loss.distortion_range = (0.00025, 0.03)
  config.loss.lpips_weight = 1.0
  # "alex" or "vgg"; its files as handed out (the classifier's and the heads'
  # .pth), and the SHA-256 of each or the first digits of it, to be checked.
  # Without files stage 2 trains without LPIPS, and says so.
  config.loss.lpips_network = "alex"
  config.loss.lpips_files = ()
  config.loss.lpips_sha256 = ()
  config.loss.adversarial_weight = 0.15
  # Of the discriminator, beside the cross-entropies of real and fake.
  config.loss.labelmix_weight = 10.0
  # Weights of labelled pixels: "small_instances" (3 on instances that the data
  # set's own annotation gives fewer than 4096 pixels; only coco has instances,
  # else 1),
  # "class_balanced" (inverse frequency in the batch) or "none".
  config.loss.pixel_weights = "small_instances"

  config.optimizer = ConfigDict()
  # "adam", "nadam" or "muon" (for matrices and convolutions; the rest by Adam).
  config.optimizer.kind = "adam"
  config.optimizer.learning_rate = 1e-4
  # Stage 2: the discriminator's learning rate over that of g_s.
  config.optimizer.discriminator_scale = 1.0
  # The learning rate of the last final_fraction of all steps, or, with decay =
  # "linear" instead of "step", that of its end, reached evenly.
  config.optimizer.final_learning_rate = 1e-5
  config.optimizer.final_fraction = 0.1
  config.optimizer.decay = "step"
  # Steps over which the learning rate rises from 0.
  config.optimizer.warmup_steps = 0
  # Gradients are scaled down to this global norm; 0 turns it off.
  config.optimizer.clip_norm = 0.0
  config.optimizer.b1 = 0.9
  config.optimizer.b2 = 0.999

  config.train = ConfigDict()
  # A name in egic_jax.training.stages: "stage0_discriminator", "stage1_mse",
  # "stage1_mse_lpips", "stage2_gan" or "stage3_orp".
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
  # Whose codec this one starts from: the work directory of an earlier run, or a
  # model file of egic export or egic import-official. Stages 2 and 3 need one.
  config.train.init_from = ""
  # Likewise for the discriminator: the work directory of stage 0, or a file of
  # egic import-official --discriminator. "" for none: stage 2 then has one that
  # was not pre-trained.
  config.train.init_discriminator = ""
  # Decay of a moving average of what the generator's side trains, which is then
  # what is evaluated, exported and built upon; 0 for none.
  config.train.ema_decay = 0.0
  # Parts of a batch whose gradients are computed one after the other, to save
  # memory; an update is made from their mean.
  config.train.accumulate = 1
  # Compute the codec's Swin blocks anew in the backward pass instead of keeping
  # what they computed, to save memory: rematerialisation. Same result; on a CPU
  # a seventh of the activations for a tenth to a third more time.
  config.train.remat = False
  # Stage 0: steps between measurements on the validation split (0: never), and
  # the number of its pictures (0: all).
  config.train.validate_every = 5_000
  config.train.num_validation = 1_000

  config.mesh = ConfigDict()
  # data * fsdp devices share a batch; data=-1 is as many as there are. With
  # fsdp=1 each has all parameters; with fsdp=N parameters, optimiser moments
  # and averages are split over groups of N, which changes no result, only
  # memory and traffic.
  config.mesh.data = -1
  config.mesh.fsdp = 1
  # Arrays of fewer values than this stay whole on every device.
  config.mesh.min_split_size = 16_384

  return config.lock()
