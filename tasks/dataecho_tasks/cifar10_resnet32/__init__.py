"""ResNet-32 on CIFAR-10, a workload of the paper; by default a miniature of it that is made on the spot."""
