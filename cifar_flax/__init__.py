"""Trains CIFAR-10 networks made of different kinds of convolution."""
