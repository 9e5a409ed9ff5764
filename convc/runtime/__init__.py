"""Running a compiled program: training, checkpoints, metrics, progress."""
