"""Pure mathematics of diffusion: no flax, no files, no config object."""
