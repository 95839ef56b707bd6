# unimol-scale for NVIDIA GPUs, from the pins of constraints.txt. It was NOT built by its authors, who had no GPU machine
# with a container runtime: please report what goes wrong.
#
#   docker build --tag unimol-scale .
#   docker run --gpus all --ipc host --volume "$PWD:/data" --workdir /data unimol-scale unimol-scale model list
#
# --ipc host gives loader processes the host's shared memory. torch brings its own CUDA libraries; the compiler serves the
# C kernels for CPUs and Triton's.

FROM python:3.12-slim-bookworm

ARG TORCH=torch==2.11.*

RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential git libxrender1 libxext6 openssh-client pdsh \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/unimol-scale
COPY constraints.txt pyproject.toml README.md LICENSE ./
# The packages first: they stay as they are when only the code changes.
RUN pip install --no-cache-dir -c constraints.txt pip setuptools wheel \
    && pip install --no-cache-dir -c constraints.txt "${TORCH}" \
    && pip install --no-cache-dir --no-build-isolation -c constraints.txt deepspeed

COPY . .
RUN pip install --no-cache-dir --no-build-isolation -c constraints.txt '.[hub]'

WORKDIR /data
CMD ["unimol-scale", "--help"]
