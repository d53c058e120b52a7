"""Datasets, batches and augmentation."""

# Here and not in `datasets`, so that a configuration can be checked before TFDS or JAX
# is imported.
NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "svhn_cropped": 10, "shapes10": 10}
NAMES: tuple[str, ...] = tuple(NUM_CLASSES)
FOLDER = "folder:"  # before a path: pictures in a folder of their own for each class
