"""The targets: one folder per backend, each knows `convc.ir` and nothing above it."""
