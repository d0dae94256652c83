"""Training of purifiers and classifiers: recipes, losses, the training loop and its state."""
