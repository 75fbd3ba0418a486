"""The networks: attribute names are the names of diffusers' state dicts."""
