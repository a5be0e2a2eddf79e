"""The version that artefacts carry."""

VERSION = "0.1.0"
