"""One batch through one model: loading, encoding, hidden states, losses, generated answers."""
