"""Every operation in naive PyTorch: the specification that kernels are held against.

One file an operation, the same file names as `kernels/`. These functions say what is meant, in the order in
which a textbook would say it; they store whatever is convenient and take their gradients from autograd.
"""
