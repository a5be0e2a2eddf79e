"""Weights change: the loop, the warm-up, the trainer of validation's arms."""
