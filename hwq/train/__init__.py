"""Training: recipes, the loop, checkpoints, and trained networks back from them."""

from hwq.train.checkpoint import BEST, LAST, Checkpoint, Meta, load
from hwq.train.loop import Diverged, Interrupted, Result, resume_recipe, train
from hwq.train.progress import Reporter, Rich, Silent
from hwq.train.recipe import Recipe, Schedule, default_recipe, read_recipe, recipe_from_dict
from hwq.train.restore import Normalise, evaluate, rebuild, restore

__all__ = [
    "BEST",
    "LAST",
    "Checkpoint",
    "Diverged",
    "Interrupted",
    "Meta",
    "Normalise",
    "Recipe",
    "Reporter",
    "Result",
    "Rich",
    "Schedule",
    "Silent",
    "default_recipe",
    "evaluate",
    "load",
    "read_recipe",
    "rebuild",
    "recipe_from_dict",
    "restore",
    "resume_recipe",
    "train",
]
