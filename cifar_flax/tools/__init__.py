"""Commands that inspect networks, compare and export runs, or train many runs."""
