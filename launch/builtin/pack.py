"""A trained model folder as the one that ships inside the package: `python -m launch.builtin.pack RUN DATA OUT`.

RUN is the result of `flaxdream text_to_image`, DATA the folder with the pictures that it was trained on (for the
words of its captions). Weights become float16. Rows of the vocabulary that no caption uses were never trained; of them
only the sign is kept, at their common size, so that the wheel, which is a zip file, holds a bit a number.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from flaxdream.weights.tokenizer import read_tokenizer, tokenize

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output_dir of the training")
    parser.add_argument("data", type=Path, help="the folder whose train/metadata.jsonl has the captions")
    parser.add_argument("out", type=Path, help="folder to write, which must not exist")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    for name in ("scheduler", "tokenizer"):
        shutil.copytree(args.run / name, args.out / name)
    shutil.copyfile(args.run / "model_index.json", args.out / "model_index.json")
    for name, file in WEIGHTS.items():
        (args.out / name).mkdir()
        config = json.loads((args.run / name / "config.json").read_text(encoding="utf-8"))
        if name == "text_encoder":
            config["dtype"] = "float32"  # else transformers computes in the type of the file, and diffusers does not
        (args.out / name / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors = load_file(args.run / name / file)
        if name == "text_encoder":
            tensors |= coarse_vocabulary(tensors, used_words(args.run, args.data))
        half = {key: np.ascontiguousarray(tensor.astype(np.float16)) for key, tensor in tensors.items()}
        save_file(half, args.out / name / file, {"format": "pt"})
    for name in ("LICENSE.fluentui-emoji", "MODEL_CARD.md"):
        shutil.copyfile(HERE / name, args.out / ("README.md" if name == "MODEL_CARD.md" else name))
    total = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {total / 1e6:.1f} MB")


def used_words(run: Path, data: Path) -> np.ndarray:
    """Rows of the vocabulary that captions use, start and end of the text included."""
    lines = (data / "train/metadata.jsonl").read_text(encoding="utf-8").splitlines()
    captions = sorted({json.loads(line)["text"] for line in lines})
    return np.unique(tokenize(read_tokenizer(run / "tokenizer"), [*captions, ""]))


def coarse_vocabulary(tensors: dict[str, np.ndarray], used: np.ndarray) -> dict[str, np.ndarray]:
    """The token embedding with untrained rows rounded to two values."""
    (name,) = (key for key in tensors if key.endswith("token_embedding.weight"))
    rows = tensors[name].copy()
    untrained = np.setdiff1d(np.arange(len(rows)), used)
    size = np.sqrt(np.mean(np.square(rows[untrained], dtype=np.float64)))
    rows[untrained] = np.where(rows[untrained] < 0, -size, size)
    return {name: rows}


if __name__ == "__main__":
    main()
