"""Triton kernels, one file an operation. Nothing is imported here: `kernels.softmax` is the module."""
