#!/usr/bin/env bash
# Sets up .venv with the test requirements and runs all tests. Arguments go to pytest, e.g. launch/test.sh tests/rl -k rloo
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment requirements-test.txt

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
.venv/bin/ruff check --quiet .
.venv/bin/python -m pytest "$@"
