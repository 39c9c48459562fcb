# The server's image: `make image`. Nothing is built or downloaded in the last stage.
FROM python:3.11-slim AS build
WORKDIR /source
COPY constraints.txt ./
RUN python -m pip install --no-cache-dir --constraint constraints.txt setuptools
COPY pyproject.toml README.md LICENSE ./
COPY clients/python clients/python
COPY service service
RUN python -m pip wheel --no-cache-dir --no-build-isolation --constraint constraints.txt --wheel-dir /wheels \
        ./clients/python . \
    && python -m venv --without-pip /opt/parley \
    && python -m pip --python /opt/parley/bin/python install --no-cache-dir --no-index --find-links /wheels parley-server

FROM python:3.11-slim
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore setuptools wheel pip \
    && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin parley \
    && install --directory --owner=parley --group=parley /data
COPY --from=build /opt/parley /opt/parley

# The configuration of a container, to be overridden by `--env` or by a TOML file that PARLEY_CONFIG names. There are no
# credentials yet, so that the server refuses an address that others can reach until PARLEY_INSECURE=1 says that the
# network around it is trusted.
ENV PATH=/opt/parley/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PARLEY_LISTEN=0.0.0.0:50051 \
    PARLEY_METRICS_LISTEN=0.0.0.0:9464 \
    PARLEY_DATABASE_URL=sqlite+aiosqlite:////data/parley.db

USER parley
WORKDIR /data
VOLUME /data
EXPOSE 50051 9464
# SIGTERM drains: replies that run may end within server.drain_grace_s, so give `docker stop` a longer limit than that.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "parley_server.probe"]
CMD ["parley", "serve"]
