"""Pools to try gradsift on: `gradsift init --example` copies one out."""
