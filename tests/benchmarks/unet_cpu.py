"""UNet on the CPU beside PyTorch eager: `python -m tests.benchmarks.unet_cpu [small|medium|sd15 ...] [--rounds 3]`.

One forward pass, one forward + backward pass (gradients of all parameters), and one training step (these gradients,
clipped, and AdamW), random weights, float32, two threads. The sides run in turns, each in a process of its own; the
least time of all turns counts, since other work on the machine only ever adds to it. CPU seconds (of all threads) are
shown beside wall seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from flaxdream.models.architectures import ARCHITECTURES

SD15 = ARCHITECTURES["sd15"]["unet"]
SMALL = SD15 | {
    "sample_size": 16,
    "block_out_channels": [32, 64, 128],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [1, 2, 4],
    "cross_attention_dim": 128,
    "norm_num_groups": 16,
}
MEDIUM = SD15 | {
    "sample_size": 32,
    "block_out_channels": [64, 128, 128],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 128,
}
# config, batch, tokens of text
CASES: dict[str, tuple[dict[str, Any], int, int]] = {
    "small": (SMALL, 32, 77),  # the built-in model's
    "medium": (MEDIUM, 2, 77),  # 8.75 million parameters, all whole blocks of SD's
    "sd15": (SD15, 1, 77),
}


def torch_side(case: str, threads: int) -> dict[str, Any]:
    import torch
    from diffusers import UNet2DConditionModel

    torch.set_num_threads(threads)
    config, batch, tokens = CASES[case]
    unet = UNet2DConditionModel.from_config(config)
    size, width = config["sample_size"], config["cross_attention_dim"]
    x, context = torch.randn(batch, 4, size, size), torch.randn(batch, tokens, width)
    t = torch.full((batch,), 500)

    def forward() -> Any:
        with torch.no_grad():
            return unet(x, t, context).sample

    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5)

    def both() -> Any:
        unet.zero_grad(set_to_none=True)
        loss = unet(x, t, context).sample.square().mean()
        loss.backward()

    def step() -> Any:
        both()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()

    return {"forward": forward, "forward + backward": both, "training step": step}


def flaxdream_side(case: str, threads: int) -> dict[str, Any]:
    from flaxdream.cli.host_memory import keep_freed_memory, run_in_caller, start_with_huge_pages

    start_with_huge_pages()
    keep_freed_memory()
    run_in_caller()  # all three as the commands do
    import jax
    import jax.numpy as jnp
    import optax

    from flaxdream.compiler_options import with_options
    from flaxdream.models import build
    from flaxdream.training.learning_rate import make_schedule
    from flaxdream.training.optimizer import make_optimizer

    jax.config.update("jax_platforms", "cpu")
    config, batch, tokens = CASES[case]
    unet = build(config)
    params = unet.init(jax.random.key(0))
    size, width = config["sample_size"], config["cross_attention_dim"]
    x, context = jnp.ones((batch, size, size, 4)), jnp.ones((batch, tokens, width))
    t = jnp.full((batch,), 500)
    optimizer = make_optimizer("adamw", {"unet": make_schedule("constant", 1e-5)})
    moments = optimizer.init({"unet": params})

    def forward(params: Any) -> Any:
        return unet(params, x, t, context)

    def loss(params: Any) -> Any:
        return jnp.mean(jnp.square(forward(params)))

    def trained(params: Any, moments: Any) -> Any:
        gradients = {"unet": jax.grad(loss)(params)}
        updates, moments = optimizer.update(gradients, moments, {"unet": params})
        return optax.apply_updates({"unet": params}, updates)["unet"], moments

    def compiled(name: str, function: Any, *arguments: Any, **settings: Any) -> Any:
        start = time.perf_counter()
        program = with_options(jax.devices()[0], jax.jit(function, **settings).lower(*arguments).compile)
        print(f"{case}, {name}: compiled in {time.perf_counter() - start:.1f} s", file=sys.stderr)
        return program

    passes = {
        name: compiled(name, function, params)
        for name, function in (("forward", forward), ("forward + backward", jax.value_and_grad(loss)))
    }
    train, state = compiled("training step", trained, params, moments, donate_argnums=(0, 1)), [params, moments]

    def step() -> Any:
        state[:] = jax.block_until_ready(train(*state))

    timed = {name: lambda run=run: jax.block_until_ready(run(params)) for name, run in passes.items()}
    return timed | {"training step": step}


SIDES = {"torch": torch_side, "flaxdream": flaxdream_side}


def measure(side: str, case: str, threads: int, seconds: float) -> dict[str, tuple[float, float]]:
    """Least wall and CPU seconds of each function, over at least three calls and `seconds`."""
    result = {}
    for name, run in SIDES[side](case, threads).items():
        run()
        start, wall, cpu = time.perf_counter(), [], []
        while len(wall) < 3 or time.perf_counter() - start < seconds:
            before, before_cpu = time.perf_counter(), time.process_time()
            run()
            wall.append(time.perf_counter() - before)
            cpu.append(time.process_time() - before_cpu)
        result[name] = (min(wall), min(cpu))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["small"], help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=SIDES, help="for the child processes")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.cases[0], options.threads, options.seconds)))
        return
    print(f"{'':28}{'torch s':>10}{'flaxdream s':>13}{'ratio':>8}{'ratio of CPU s':>16}")
    for case in options.cases:
        best: dict[str, dict[str, list[float]]] = {side: {} for side in SIDES}
        for _ in range(options.rounds):
            for side in SIDES:
                command = [sys.executable, "-m", "tests.benchmarks.unet_cpu", case, "--side", side]
                command += ["--seconds", str(options.seconds), "--threads", str(options.threads)]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                for name, times in json.loads(output.splitlines()[-1]).items():
                    best[side][name] = [min(pair) for pair in zip(best[side].get(name, times), times)]
        for name, (wall, cpu) in best["torch"].items():
            ours, ours_cpu = best["flaxdream"][name]
            print(
                f"{case + ', ' + name:28}{wall:10.3f}{ours:13.3f}{ours / wall:8.2f}{ours_cpu / cpu:16.2f}", flush=True
            )


if __name__ == "__main__":
    main()
