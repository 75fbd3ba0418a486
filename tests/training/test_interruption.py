"""Signals, in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flaxdream.training.interruption import Interruption
from tests.training.whole_runs import environment

RUN = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT):  # as a terminal starts it, whatever started the tests
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
from flaxdream.training.interruption import Interruption
def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
"""
STEPS = """
with Interruption() as interruption:
    for step in range(1000):
        print("step", step, flush=True)
        busy(0.05)
        if interruption.requested():
            print("saved", step, flush=True)
            break
sys.exit(interruption.exit_code)
"""
COMPILING = """
import hashlib
with Interruption() as interruption:
    print("step 0", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**9)  # C code that no signal ends, as a compilation is
"""


def started(program: str) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", RUN + program], env=environment(), **pipes)
    assert process.stdout.readline() == "step 0\n", process.stderr.read()
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_finish_and_be_saved_and_the_exit_code_tells_it(number, code):
    with started(STEPS) as process:
        begin = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == code
    *_, saved = out.splitlines()
    assert saved.startswith("saved") and time.monotonic() - begin < 10
    assert f"{signal.Signals(number).name}: this step is finished, then saved" in err


def test_a_run_without_signals_ends_with_0():
    with started(STEPS.replace("1000", "2")) as process:
        assert process.communicate(timeout=20) == ("step 1\n", "")
    assert process.returncode == 0


def test_ctrl_c_from_a_launcher_that_passes_it_on_counts_once():
    with started(STEPS) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 130 and "saved" in out


def test_a_second_ctrl_c_leaves_at_once_even_in_a_compilation():
    with started(COMPILING) as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n"
        assert "Ctrl-C again leaves at once" in process.stderr.readline()
        time.sleep(0.4)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
        assert "leaving at once" in process.stderr.read()


def test_a_second_ctrl_c_at_a_prompt_is_an_ordinary_one_and_the_process_lives():
    program = """
sys.ps1 = ">>> "
try:
    with Interruption() as interruption:
        print("step 0", flush=True)
        busy(60)
except KeyboardInterrupt:
    print("alive")
"""
    with started(program) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[0] == "alive\n"
    assert process.returncode == 0


def test_a_signal_that_is_ignored_from_the_start_stays_ignored():
    program = STEPS.replace("with Inter", "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwith Inter").replace(
        "1000", "9"
    )
    with started(program) as process:
        process.send_signal(signal.SIGINT)
        assert "saved" not in process.communicate(timeout=20)[0]
    assert process.returncode == 0


def test_handlers_are_those_from_before_after_the_block():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for _ in range(2):
        with pytest.raises(RuntimeError), Interruption() as interruption:
            assert not interruption.requested()
            raise RuntimeError
    assert {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)} == before
    assert signal.set_wakeup_fd(-1) == -1
    assert not any(thread.name == "signals" for thread in threading.enumerate())
    assert descriptors is None or len(os.listdir("/proc/self/fd")) == descriptors


def test_outside_of_the_main_thread_nothing_is_handled_and_that_is_said(capsys):
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def run():
        with Interruption() as interruption:
            seen.extend([interruption.requested(), signal.getsignal(signal.SIGTERM) is before])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False, True]
    assert "not in the main thread" in capsys.readouterr().err
