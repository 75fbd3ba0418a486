#!/usr/bin/env bash
# All checks on a fresh machine: makes .venv-test, installs the package with its test tools, then lint, types, tests.
#   ./test.sh            everything, as CI runs it
#   ./test.sh --fast     without the slow tier (true model shapes, fresh processes)
#   ./test.sh PYTEST-ARGUMENTS...
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
venv=.venv-test
if [ ! -x $venv/bin/python ]; then "$python" -m venv $venv; fi
stamp=$(cat setup.py pyproject.toml flaxdream/__init__.py | sha256sum)
if [ "$(cat $venv/stamp 2>/dev/null)" != "$stamp" ]; then
  $venv/bin/python -m pip install --quiet --upgrade pip
  $venv/bin/python -m pip install --quiet --editable '.[test]'
  echo "$stamp" > $venv/stamp
fi
$venv/bin/ruff check .
$venv/bin/ruff format --check .
$venv/bin/mypy
if [ "${1:-}" = --fast ]; then shift; set -- -m "not slow" "$@"; fi
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}  # as the command does: see flaxdream/cli/host_memory.py
exec $venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
