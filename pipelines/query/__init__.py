"""What a user asks of a store: similar examples, and where one came from and went."""
