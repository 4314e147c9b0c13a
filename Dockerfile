# The suite in a container. The stage prod has the code baked in, dev takes it from the host; compose.yaml names both.
# For a PC's processor as it is; for a board on the image of its JetPack, with the engine built for its GPU (87: Orin):
#   BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0 RUNTIME=nvidia \
#   CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=87-real -DGGML_CUDA_NO_VMM=ON" \
#   docker compose --profile prod build
ARG BASE=ubuntu:24.04
# hadolint ignore=DL3006  # the base carries its tag
FROM ${BASE} AS base
# Any processor with AVX2: the image may run on another one than it was built on.
ARG CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF"
ENV VENV=/opt/venv PATH=/opt/venv/bin:/usr/local/cuda/bin:$PATH
# hadolint ignore=DL3008  # the packages are those of the base's release
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential ca-certificates cmake git make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv "$VENV"
WORKDIR /app
COPY requirements.txt ./
RUN CMAKE_ARGS="$CMAKE_ARGS" pip install --no-cache-dir -r requirements.txt

FROM base AS dev
COPY requirements-dev.txt ./
RUN pip install --no-cache-dir -r requirements-dev.txt
CMD ["bash"]

FROM base AS prod
COPY . .
CMD ["python", "companions/run_experiment.py", "--help"]
