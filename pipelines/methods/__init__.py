"""How a method represents, scores and chooses: what a new method is written with.

from gradsift.pipelines.methods.registry import method
"""
