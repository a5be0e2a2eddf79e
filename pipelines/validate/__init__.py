"""Does it help: arms, seeds, measures, verdicts."""
