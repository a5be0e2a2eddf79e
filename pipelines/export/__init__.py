"""What trainers read: data files, cards, configs, atlas, and what changed between two."""
