# docker build -t dcs_nas .    for the CPU; for an NVIDIA GPU, whose CUDA libraries come with PyPI's torch:
# docker build -t dcs_nas --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 --build-arg TORCH_INDEX=https://pypi.org/simple .
ARG BASE=debian:bookworm-slim
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update && \
    apt-get install -y --no-install-recommends python3 python3-venv graphviz fonts-dejavu-core && \
    rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
WORKDIR /opt/dcs_nas
COPY constraints.txt ./
RUN python3 -m pip install "torch==$(sed -n 's/^torch==\([^ ]*\).*/\1/p' constraints.txt)" --index-url "$TORCH_INDEX"
COPY pyproject.toml README.md LICENSE ./
COPY dcs_nas ./dcs_nas
COPY configs ./configs
COPY genotypes ./genotypes
COPY search_spaces ./search_spaces
COPY results/reference ./results/reference
RUN python3 -m pip install -c constraints.txt '.[export]'
WORKDIR /work
ENTRYPOINT ["dcs-nas"]
CMD ["--help"]
