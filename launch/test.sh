#!/usr/bin/env bash
# Makes .venv with the test requirements and .venv-vllm, and runs the tests in two processes. If vLLM cannot be
# installed, the tests in tests/vllm are skipped. --fast takes three minutes: one whole run, no several hosts, no vLLM.
# --long runs only the tests marked `long`, which the other two leave out, such as a run that is killed again and again.
# Other arguments go to pytest, e.g. launch/test.sh tests/rl -k rloo, or launch/test.sh -n 0 --pdb for one process.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment requirements-math-verify.txt requirements-test.txt
if [ "${1:-}" = --fast ]; then
    shift
    set -- -m "not slow" "$@"
else
    make_vllm_environment || [ $? -eq 1 ] || exit 2 # 1: vLLM cannot be installed here
    if [ "${1:-}" = --long ]; then
        shift
        set -- -m long "$@"
    else
        set -- -m "not long" "$@"
    fi
fi

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
unset PYTHONDONTWRITEBYTECODE  # the processes that tests start would compile every module again
.venv/bin/ruff check --quiet .
.venv/bin/ruff format --quiet --check .
.venv/bin/mypy
.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
