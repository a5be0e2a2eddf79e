"""Stages of a curation run: read, encode, warm up, gradients, score and select, export, train, validate."""
