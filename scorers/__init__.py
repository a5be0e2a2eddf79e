"""Scores and selection rules: pure functions over arrays and blocks. No files, no models, no Prefect."""
