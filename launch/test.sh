#!/usr/bin/env bash
# Sets up .venv with the test requirements, and .venv-vllm, and runs all tests; without a vLLM for this machine those of
# tests/vllm are skipped. Arguments go to pytest, e.g. launch/test.sh tests/rl -k rloo
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment requirements-test.txt
make_vllm_environment || true

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
.venv/bin/ruff check --quiet .
.venv/bin/python -m pytest "$@"
