"""Datasets, batches and augmentation."""

# Here and not in `datasets`, so that a configuration can be checked before TFDS or JAX
# is imported.
NAMES: tuple[str, ...] = ("cifar10", "cifar100", "svhn_cropped", "shapes10")
FOLDER = "folder:"  # before a path: pictures in a folder of their own for each class
