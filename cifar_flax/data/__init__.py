"""Datasets, batches and augmentation."""

# Here and not in `datasets`, so that a configuration can be checked before TFDS or JAX
# is imported.
NAMES: tuple[str, ...] = ("cifar10", "shapes10")
