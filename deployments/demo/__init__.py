"""The demo checkpoint: a tiny Florence-2, the recipe that trained it, the scenes it knows."""
