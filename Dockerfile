# The server's image: `make image` (docs/image.md). Nothing is downloaded in the last stage.
#
# Packages come from PyPI. For your own package index or certificate authority, pass pip's configuration and the
# certificates as secrets of the build, which are not part of the image:
#   docker build --secret id=pip,src=pip.conf --secret id=ca,src=ca.pem --tag parley:latest .
# or, if the address of the index has no password: --build-arg PIP_INDEX_URL=...
#
# Any base will do that has Python 3.11 or newer as `python3`, its venv module, and useradd: Debian with the package
# python3-venv, for example. Both stages use it, because the environment refers to the interpreter of its base.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ARG PIP_INDEX_URL
# Extras of the server, separated by commas: traces, which are off until a variable turns them on (docs/observability.md).
ARG EXTRAS=otel
WORKDIR /source
# Without the secrets, pip ignores the missing configuration file; a missing certificate bundle would be an error, so it is
# set only if it exists. Downloaded packages are kept by the builder for the next build, outside the image.
ENV PIP_CONFIG_FILE=/run/secrets/pip PIP_CACHE_DIR=/var/cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1
# What builds has an environment of its own, from which nothing gets into the image. pip refuses a file whose hash is not in
# constraints.txt; an older pip, which the base may have, does not take versions from constraints that have hashes.
COPY constraints.txt tools/pip.txt ./
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip --mount=type=secret,id=ca \
    if [ -e /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && python3 -m venv /opt/build \
    && /opt/build/bin/python -m pip install --quiet --no-compile --require-hashes --requirement pip.txt \
    && /opt/build/bin/python -m pip install --quiet --no-compile --require-hashes --constraint constraints.txt \
        setuptools cyclonedx-bom
# Packages of others come before Parley's code, so that a change of the code does not install them again.
COPY pyproject.toml ./
COPY clients/python/pyproject.toml clients/python/
COPY tools/dependencies.py tools/
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip --mount=type=secret,id=ca \
    if [ -e /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && python3 -m venv --without-pip /opt/parley \
    && python3 tools/dependencies.py "parley-server[${EXTRAS}]" >requirements.txt \
    && /opt/build/bin/python -m pip --python /opt/parley/bin/python install --quiet \
        --require-hashes --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY clients/python clients/python
COPY service service
RUN /opt/build/bin/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir /wheels ./clients/python . \
    && /opt/build/bin/python -m pip --python /opt/parley/bin/python install --quiet --no-index --no-deps --find-links /wheels \
        parley-client parley-server \
    && /opt/build/bin/python -m pip --python /opt/parley/bin/python check \
    && /opt/build/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
        --output-format JSON --output-file /opt/parley/sbom.cdx.json /opt/parley/bin/python

FROM ${BASE}
# No installer is left: neither pip, where the base has it, nor the copy from which Python's ensurepip would install it.
RUN if python3 -c 'import pip' 2>/dev/null; then \
        python3 -m pip uninstall --yes --quiet --root-user-action=ignore setuptools wheel pip; \
    fi \
    && rm -rf "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/ensurepip" /usr/share/python-wheels \
    && groupadd --system --gid 10001 parley \
    && useradd --system --uid 10001 --gid 10001 --home-dir /data --shell /usr/sbin/nologin parley \
    && install --directory --mode=0700 --owner=10001 --group=10001 /data
COPY --from=build /opt/parley /opt/parley
LABEL org.opencontainers.image.title="Parley" \
      org.opencontainers.image.description="A gRPC service that streams, stores, resumes and cancels the replies of chat models" \
      org.opencontainers.image.licenses="Apache-2.0"

# The configuration of a container; override it with `--env` or a TOML file that PARLEY_CONFIG names. Without
# credentials, the server refuses an address that others can reach unless PARLEY_INSECURE=1 confirms that the network is
# trusted (docs/access.md).
ENV PATH=/opt/parley/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PARLEY_LISTEN=0.0.0.0:50051 \
    PARLEY_METRICS_LISTEN=0.0.0.0:9464 \
    PARLEY_DATABASE_URL=sqlite+aiosqlite:////data/parley.db

# A number, so that Kubernetes can check that it is not root. A new volume at /data belongs to this user, as the folder does.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 50051 9464
# SIGTERM drains: running replies may end within server.drain_grace_s, so give `docker stop` a longer time limit.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "parley_server.cli.probe"]
CMD ["parley", "serve"]
