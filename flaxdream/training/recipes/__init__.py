"""Which data, what trains and what is exported: one file a recipe, and what they share."""
