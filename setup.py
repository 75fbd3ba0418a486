"""Package metadata; build and tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "flaxdream/__init__.py").read_text()).group(1)

RUNTIME = [
    "jax>=0.10",
    "flax>=0.12.8",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.11",
    "diffusers>=0.42",
    "transformers>=5",
    "datasets>=4",
    "tensorflow-datasets>=4.9.9",
    "importlib_resources>=6",  # tensorflow-datasets imports it and does not require it
    "Pillow>=11",
    "numpy>=2",
    "safetensors>=0.5",
    "huggingface_hub>=1",
    "jaxtyping>=0.3",
    "tyro>=1.0",
    "PyYAML>=6",
    "tqdm>=4.66",
]
TENSORBOARD = ["tensorboardX>=2.6.4"]  # writes the event files; `pip install tensorboard` shows them
WANDB = ["wandb>=0.19"]
HEIC = ["pillow-heif>=1"]  # pictures of iPhones
TEST = [
    *TENSORBOARD,
    *WANDB,
    *HEIC,
    "torch==2.13.0",
    "accelerate>=1",  # else diffusers warns when it loads a model
    "jax[tpu]>=0.10; sys_platform == 'linux' and platform_machine == 'x86_64'",  # its compiler runs without a TPU
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.120",
    "ruff>=0.9",
    "mypy>=1.14",
    "types-PyYAML",
    "types-tqdm",
]

setup(
    name="flaxdream",
    version=VERSION,
    description="Stable Diffusion sampling and fine-tuning on TPUs and large GPUs, in JAX and Flax",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["flaxdream", "flaxdream.*"]),
    package_data={"flaxdream": ["assets/**/*", "py.typed"]},
    install_requires=RUNTIME,
    extras_require={
        "tpu": ["jax[tpu]>=0.10"],
        "cuda": ["jax[cuda13]>=0.10"],
        "tensorboard": TENSORBOARD,
        "wandb": WANDB,
        "heic": HEIC,
        "test": TEST,
    },
    entry_points={"console_scripts": ["flaxdream = flaxdream.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
