"""The `flaxdream` command. Each sub-command is a module here, imported only when it is called."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import flaxdream
from flaxdream.cli.host_memory import keep_freed_memory, start_with_huge_pages
from flaxdream.compile_threads import compiling

COMMANDS = {
    "sample": "draw pictures from prompts",
    "dreambooth": "teach a model a subject from a few pictures",
    "export": "write a checkpoint of a training as a model",
    "text_to_image": "train a model on captioned pictures",
    "cache": "make the latents and text states of a text_to_image training ahead of it",
    "dataset": "check a set of pictures before training",
    "vae": "train a model's VAE on pictures",
    "plan": "say whether a training fits a TPU that is not here, and how fast it will be",
    "random_model": "write a model with random weights, to try commands and machines without a download",
}
FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130
DISK_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command and returns its exit code: 0 done, 1 failed, 2 wrong settings, 130 interrupted."""
    if argv is not None:
        return _run(argv, own_process=False)
    try:
        code = _run(sys.argv[1:], own_process=True)
    except Exception:
        if not compiling():
            raise
        traceback.print_exc()
        code = FAILED
    if compiling():  # Python would wait for minutes for a program that nobody will use
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(argv: Sequence[str], *, own_process: bool) -> int:
    arguments = list(argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else USAGE_ERROR
    if arguments[0] == "--version":
        print(f"flaxdream {flaxdream.__version__}")
        return 0
    command = arguments[0].replace("-", "_")
    if command not in COMMANDS:
        print(f"flaxdream: unknown command {arguments[0]!r}{_closest(command)}\n\n{_help()}", file=sys.stderr)
        return USAGE_ERROR
    if own_process:
        start_with_huge_pages()
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background ignores it
            signal.signal(signal.SIGINT, _interrupt)
    keep_freed_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's alarm at slow compiles; what fails is an exception too
    try:
        return importlib.import_module(f"flaxdream.cli.{command}").main(arguments[1:])
    except ValueError as error:
        print(f"flaxdream {command}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        text = "\n".join([f"{where}{error.strerror}", *getattr(error, "__notes__", ())])
        print(f"flaxdream {command}: {text}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"flaxdream {command}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _interrupt(number: int, frame: Any) -> NoReturn:
    """Ends the process at once: Python's own exception is swallowed by some imports, and made another one by others.

    What is on the disk is whole at any moment, and a training that has begun has a handler of its own.
    """
    os.write(sys.stderr.fileno(), b"flaxdream: interrupted\n")
    os._exit(INTERRUPTED)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        f"flaxdream {flaxdream.__version__}: Stable Diffusion in JAX\n\nusage: flaxdream COMMAND [flags]\n\n{lines}\n\n"
        "flaxdream COMMAND --help lists the flags of a command."
    )


def _closest(word: str) -> str:
    import difflib

    close = difflib.get_close_matches(word, COMMANDS, n=1)
    return f"; perhaps you meant {close[0]!r}" if close else ""
