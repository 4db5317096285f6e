#!/usr/bin/env bash
# An experiment with several seeds: launch/sweep.sh CONFIG SEEDS [--slurm [SBATCH OPTIONS --]] [OPTIONS OF srt_jax.main]
#
#   launch/sweep.sh configs/srt.py:tiny 0-4                                     one after another on this machine
#   launch/sweep.sh configs/srt.py:qwen25_math_7b,dapo 0,1,2 --slurm --gres=gpu:8 --time=24:00:00 --
#                                                                               a job array, one job per seed
#
# Runs have the names NAME-seedN. The same command resumes stopped runs and skips finished ones.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
if [ $# -lt 2 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi

config=$1
seeds=$2
shift 2
if ! [[ $seeds =~ ^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$ ]]; then
    echo "error: SEEDS is '$seeds': give numbers and ranges, such as 0-4 or 0,1,7." >&2
    exit 2
fi
slurm=() array=
if [ "${1:-}" = --slurm ]; then
    array=yes
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        slurm+=("$1")
        shift
    done
    [ $# -gt 0 ] && shift
    command -v sbatch >/dev/null || { echo "error: --slurm is given, but there is no sbatch on this machine." >&2; exit 2; }
fi
make_environment

# The name of the runs comes from the config, so that their folders are beside those of other runs.
name=$(.venv/bin/python - "$config" <<'PYTHON'
import sys
from ml_collections import config_flags
from absl import flags
config_flags.DEFINE_config_file("config", None, "")
flags.FLAGS(["sweep", f"--config={sys.argv[1]}"])
print(flags.FLAGS.config.name)
PYTHON
)

run() { # SEED [OPTIONS]
    local seed=$1
    shift
    .venv/bin/python -m srt_jax.main --config="$config" --config.seed="$seed" --config.name="$name-seed$seed" "$@"
}

if [ -n "$array" ]; then
    printf -v command '%q ' .venv/bin/python -m srt_jax.main --config="$config" "$@"
    exec sbatch --array="$seeds" --job-name="$name" "${slurm[@]}" --wrap \
        "$command --config.seed=\$SLURM_ARRAY_TASK_ID --config.name=$(printf %q "$name")-seed\$SLURM_ARRAY_TASK_ID"
fi
for range in ${seeds//,/ }; do
    for seed in $(seq "${range%-*}" "${range#*-}"); do
        run "$seed" "$@"
    done
done
