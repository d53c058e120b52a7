"""Run directories, checkpoints, signals, processes, observers and provenance."""
