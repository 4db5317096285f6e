#!/usr/bin/env bash
# One run over all hosts of a TPU pod slice, with one process per host. The in-process sampler uses all chips. Start the
# script on every host at the same time, in a copy of the project. All hosts must share the run folder, e.g. by NFS.
# Usage, from the machine that made the slice:
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command='cd srt_jax && launch/tpu_pod.sh \
#       --config=configs/srt.py --config.mesh.fsdp=32 --config.batch.microbatch_sequences=64 --config.rollout.slots=512 \
#       --config.out=/mnt/shared/runs'
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment
.venv/bin/python -c 'import libtpu' 2>/dev/null || .venv/bin/python -m pip install --quiet -r requirements-tpu.txt
export SRT_PROCESSES=auto
exec .venv/bin/python -m srt_jax.main "$@"
