"""The planted pool: generated data, a model trained on the spot, the whole flow."""
