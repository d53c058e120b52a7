"""Trains CIFAR-10 networks made of five kinds of convolution."""
