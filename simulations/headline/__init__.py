"""The paper's CIFAR-10 experiment for a GPU, run in resumable slices."""
