"""What a user may write: the recipe, its sections, and how a file becomes one."""

from gradsift.pipelines.recipe.cascade import Cascade
from gradsift.pipelines.recipe.export import Export
from gradsift.pipelines.recipe.features import ChosenLayers, Features, Projector, Signals
from gradsift.pipelines.recipe.load import load_recipe, parse_recipe, recorded_recipe, renamed, section_of
from gradsift.pipelines.recipe.mix import Mix, Mixing, Part, Prospect, ScalingLaw
from gradsift.pipelines.recipe.model import Encoding, Lora, Model, Training, Warmup
from gradsift.pipelines.recipe.pool import Source, Target
from gradsift.pipelines.recipe.recipe import Recipe
from gradsift.pipelines.recipe.runner import Runner
from gradsift.pipelines.recipe.screening import Decontaminate, Dedup, MinHash, Semantic
from gradsift.pipelines.recipe.section import Fields, Section
from gradsift.pipelines.recipe.select import Method, Select
from gradsift.pipelines.recipe.validate import GradES, QTuning, Sft, Validate

__all__ = [
    "Cascade",
    "ChosenLayers",
    "Decontaminate",
    "Dedup",
    "Encoding",
    "Export",
    "Features",
    "Fields",
    "GradES",
    "Lora",
    "Method",
    "MinHash",
    "Mix",
    "Mixing",
    "Model",
    "Part",
    "Projector",
    "Prospect",
    "QTuning",
    "Recipe",
    "Runner",
    "ScalingLaw",
    "Section",
    "Select",
    "Semantic",
    "Sft",
    "Signals",
    "Source",
    "Target",
    "Training",
    "Validate",
    "Warmup",
    "load_recipe",
    "parse_recipe",
    "recorded_recipe",
    "renamed",
    "section_of",
]
