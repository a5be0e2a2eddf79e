"""A chat becomes a stored row: gradients, projections, signals, sentence embeddings."""
