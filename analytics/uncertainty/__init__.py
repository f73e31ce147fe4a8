"""How sure a metric is: bootstrap intervals and null models over texts."""
