"""How fast this is against the release's way, and what a training will take. Nothing that training needs."""
