"""Where data sets come from: TFDS builders, downloads, archives, folders."""
