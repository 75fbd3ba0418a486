"""The size of the pictures that a plan takes a training to have."""

from __future__ import annotations

from flaxdream.config.run import RunConfig
from flaxdream.config.text_to_image import TextToImageConfig
from flaxdream.data.buckets import Size, bucket_table


def largest_size(config: RunConfig) -> Size:
    """Height and width: of the bucket with the largest area where there are buckets, else the resolution's square."""
    side = config.resolution
    if not (isinstance(config, TextToImageConfig) and config.use_aspect_ratio_bucket):
        return side, side
    sizes = bucket_table(config.bucket_table, side, config.bucket_divisor)
    return max(sizes, key=lambda size: size[0] * size[1])
