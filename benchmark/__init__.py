"""How fast this is against the release's way: the stock model, the arms, the workloads. Nothing that training needs."""
