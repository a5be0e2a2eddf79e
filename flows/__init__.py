"""Thin Prefect flows over the stages in `pipelines`."""
