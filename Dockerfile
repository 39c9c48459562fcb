# The server's image: `make image`. Nothing is built or downloaded in the last stage.
#
# Packages come from PyPI. For your own package index or certificate authority, pass pip's configuration and the
# certificates as secrets of the build, which are not part of the image:
#   docker build --secret id=pip,src=pip.conf --secret id=ca,src=ca.pem --tag parley:latest .
# or, if the address of the index has no password: --build-arg PIP_INDEX_URL=...
FROM python:3.11-slim AS build
ARG PIP_INDEX_URL
WORKDIR /source
# Without the secrets, pip ignores the missing configuration file; a missing certificate bundle would be an error, so it is
# set only if it exists.
ENV PIP_CONFIG_FILE=/run/secrets/pip
COPY constraints.txt ./
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    if [ -e /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && python -m pip install --no-cache-dir --constraint constraints.txt setuptools
COPY pyproject.toml README.md LICENSE ./
COPY clients/python clients/python
COPY service service
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    if [ -e /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && python -m pip wheel --no-cache-dir --no-build-isolation --constraint constraints.txt --wheel-dir /wheels \
        ./clients/python . \
    && python -m venv --without-pip /opt/parley \
    && python -m pip --python /opt/parley/bin/python install --no-cache-dir --no-index --find-links /wheels parley-server

FROM python:3.11-slim
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore setuptools wheel pip \
    && groupadd --system --gid 10001 parley \
    && useradd --system --uid 10001 --gid 10001 --home-dir /data --shell /usr/sbin/nologin parley \
    && install --directory --mode=0700 --owner=10001 --group=10001 /data
COPY --from=build /opt/parley /opt/parley

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
