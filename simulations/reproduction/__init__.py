"""Reproduction of the CIFAR-10 experiment of the CuDFKD paper, for a GPU, in resumable calls.

Run ``python -m fedkd.simulations.reproduction.cudfkd_cifar10``. Nothing is imported here: torch
takes seconds.
"""
