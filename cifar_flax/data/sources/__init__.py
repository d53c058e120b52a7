"""The sources of datasets: TFDS builders, downloads, archives and folders."""
