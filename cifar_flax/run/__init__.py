"""What keeps a run: its directory, checkpoints, signals, observers, provenance."""
