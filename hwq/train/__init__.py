"""Training: recipes, the loop, checkpoints, and trained networks back from them."""

from hwq.train.checkpoint import BEST, LAST, Checkpoint, Meta, load
from hwq.train.distributed import World, joined
from hwq.train.diverged import Diverged
from hwq.train.interrupt import Interrupted
from hwq.train.loop import Result, resume_recipe, train
from hwq.train.progress import Reporter, Rich, Silent
from hwq.train.recipe import Recipe, default_recipe, read_recipe, recipe_from_dict
from hwq.train.restore import Normalise, evaluate, rebuild, restore
from hwq.train.schedule import Schedule

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
    "World",
    "default_recipe",
    "evaluate",
    "joined",
    "load",
    "read_recipe",
    "rebuild",
    "recipe_from_dict",
    "restore",
    "resume_recipe",
    "train",
]
