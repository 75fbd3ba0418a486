"""A plan that is stopped: what compiles for it ends too, and nothing stays in the folder for temporary files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

CHILD = """
    import os, pathlib, sys, time
    from flaxdream.planning.child import end_when_left
    folder = pathlib.Path(sys.argv[1])
    {watch}
    (folder.parent / "part").write_text(str(os.getpid()))
    (folder.parent / "part").rename(folder.parent / "compiles")
    time.sleep(600)  # the compile
"""
PLAN = """
    import sys
    import flaxdream.cli
    from flaxdream.planning import measuring

    popen = measuring.subprocess.Popen
    measuring.subprocess.Popen = lambda argv, **rest: popen([sys.executable, "-c", {child!r}, argv[-1]], **rest)
    sys.argv = ["flaxdream", "plan", "--topology=cpu", "--pretrained_model_name_or_path=tiny", "--resolution=32"]
    sys.exit(flaxdream.cli.main())
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("number", "code", "watch"),
    [
        (signal.SIGINT, 130, "pass"),
        (signal.SIGTERM, 143, "pass"),
        (signal.SIGKILL, -signal.SIGKILL, "end_when_left(folder)"),
    ],
)
def test_no_process_and_no_folder_are_left(tmp_path, number, code, watch):
    script = textwrap.dedent(PLAN.format(child=textwrap.dedent(CHILD.format(watch=watch))))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True)
    compiles = tmp_path / "compiles"
    _until(lambda: compiles.exists() or process.poll() is not None)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in errors, errors
    child = int(compiles.read_text())
    _until(lambda: not _runs(child) and not list(tmp_path.glob("flaxdream-plan-*")))


def _until(claim):
    end = time.monotonic() + 300  # a busy machine starts a program slowly
    while not claim():
        assert time.monotonic() < end
        time.sleep(0.1)


def _runs(number):
    """Whether there is such a process; one that nobody has asked for its exit code does not run."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(number)], capture_output=True, text=True)
    return not found.stdout.strip().startswith("Z")
