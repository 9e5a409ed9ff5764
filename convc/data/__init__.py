"""Data: the IDX reader, MNIST and where it is looked for, digits, batches."""
