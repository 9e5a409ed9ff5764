"""Data: MNIST, CIFAR-10, digits, where they are looked for, readers, batches."""
