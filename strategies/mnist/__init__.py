"""The built-in workload: four models on MNIST, the same numbers under every framework."""
