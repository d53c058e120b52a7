"""Measures how fast this project is beside PyTorch and Keras: `make bench`."""
