"""Commands that look at networks and runs, or start many of them."""
