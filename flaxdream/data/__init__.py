"""Pictures, captions and the rows of a batch: numpy and Pillow only, no jax.

`images` files to arrays, `decoding` the same in other processes; `folders`, `captions`, `concepts` what a DreamBooth
user has; `picture_set` captioned pictures behind one face, which `sources` opens by the data flags (`folder_set`,
`hub_set`, `tfds_set`, `tar_set`); `dreambooth`, `captioned`, `held_out` which picture is in which row of which step, by
`orders`; `streamed` the same for what is never here as a whole; `buckets` the sizes to which pictures of many shapes
are cut; `loader` rows to batches of arrays; `class_images` the folder of prior pictures.
"""
