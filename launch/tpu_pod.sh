#!/usr/bin/env bash
# One run over all hosts of a TPU pod slice, with one process per host. The in-process sampler uses all chips. Start the
# script on every host at the same time, in a copy of the project. All hosts must share the run folder, e.g. by NFS.
# --dry_run prints the commands. Usage, from the machine that made the slice (docs/tpu.md):
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command='cd srt_jax && launch/tpu_pod.sh \
#       --config=configs/srt.py --config.mesh.fsdp=32 --config.batch.microbatch_sequences=64 --config.rollout.slots=512 \
#       --config.out=/mnt/shared/runs'
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
option dry_run "$@" && dry_run=yes
set -- "${rest[@]}"
option config "$@" || refuse "give --config=FILE, e.g. launch/tpu_pod.sh --config=configs/srt.py"
make_environment
install_accelerator tpu
set_variables SRT_PROCESSES=auto
run_last .venv/bin/python -m srt_jax.main "$@"
