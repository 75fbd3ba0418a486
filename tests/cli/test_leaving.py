"""A command of its own process that ends while a step is still compiled ahead."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

COMMAND = """
    import sys, threading, types
    import flaxdream.cli
    from flaxdream.compile_threads import PREFIX

    def main(argv):
        threading.Thread(target=threading.Event().wait, name=PREFIX + "_0").start()  # never ends
        print("output")
        {end}

    sys.modules["flaxdream.cli.sample"] = types.SimpleNamespace(main=main)
    sys.argv = ["flaxdream", "sample"]
    sys.exit(flaxdream.cli.main())
"""


@pytest.mark.parametrize(
    ("end", "code", "error"),
    [
        ("return 143", 143, ""),
        ("raise ValueError('wrong rank')", 2, "flaxdream sample: wrong rank\n"),
        ("raise OSError(28, 'No space left on device', 'out')", 1, "flaxdream sample: out: No space left on device\n"),
        ("raise RuntimeError('a fault')", 1, "RuntimeError: a fault\n"),
    ],
)
def test_it_is_not_waited_for_and_exit_code_and_output_are_whole(end, code, error):
    script = textwrap.dedent(COMMAND.format(end=end))
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout) == (code, "output\n")
    assert found.stderr.endswith(error)
