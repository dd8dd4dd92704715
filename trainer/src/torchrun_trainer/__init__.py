"""Keeps a plain PyTorch script elastic under torchrun."""
