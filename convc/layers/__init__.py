"""The layers a model is written with."""
