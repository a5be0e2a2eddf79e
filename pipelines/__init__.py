"""Stages of a curation run: read, encode, warm up, gradients, score and select, export, train, validate."""

from gradsift.pipelines.threads import wait_passively

wait_passively()  # before any module of these imports torch
