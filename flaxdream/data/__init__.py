"""Pictures, captions and the rows of a batch: numpy and Pillow only, no jax.

`images` files to arrays; `folders`, `captions`, `concepts` what the user has; `dreambooth` which picture is in
which row of which step; `loader` rows to batches of arrays; `class_images` the folder of prior pictures.
"""
