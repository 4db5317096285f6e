# The trainer and vLLM's servers on NVIDIA GPUs. The wheels bring CUDA's libraries. The driver comes from the host, by
# NVIDIA's container toolkit. It must be 580 or newer. In the project folder:
#   docker build -f launch/cuda.Dockerfile -t srt_jax .
#   docker run --gpus=all --ipc=host --rm srt_jax                       # srt check
#   docker run --gpus=all --ipc=host --rm -v "$PWD/runs:/srt_jax/runs" -v "$HOME/.cache/huggingface:/root/.cache/huggingface" \
#       srt_jax launch/h200_node.sh configs/srt.py
# --ipc=host: the servers and the exports of weights use /dev/shm, which has 64 MB in a container.
FROM python:3.12-slim-bookworm

# g++: PyTorch and Triton compile kernels. openssh-client: tunnels to servers on other hosts (launch/slurm.sh). Versions
# are those of the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ openssh-client \
    && rm -rf /var/lib/apt/lists/*

ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srt_jax

# The environments come before the sources, so that a change of the sources does not install them again. The files
# `installed` tell launch/environment.sh that they are complete.
COPY requirements*.txt ./
RUN python -m venv .venv \
    && .venv/bin/python -m pip install --quiet -r requirements.txt -r requirements-cuda.txt \
    && echo "$(python --version) $(sha256sum requirements.txt)" >.venv/installed
RUN python -m venv .venv-vllm \
    && .venv-vllm/bin/python -m pip install --quiet -r requirements-vllm.txt \
    && echo "$(python --version) $(sha256sum requirements-vllm.txt)" >.venv-vllm/installed
COPY . .

ENV PATH=/srt_jax/.venv/bin:$PATH
CMD ["python", "-m", "srt_jax", "check"]
