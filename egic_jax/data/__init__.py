"""Pictures and label maps for training: builders, augmentation, batches."""
