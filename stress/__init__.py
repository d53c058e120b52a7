"""What a run survives: python -m stress, or make stress."""
