# The minor version of Python is the one that the tests run on. scripts/check-image runs these steps without an engine.
FROM docker.io/library/python:3.11.15-slim-trixie@sha256:db3ff2e1800a8581e2c48a27c3995339d47bdf046da21c7627accd3d51053a93 AS base

FROM base AS build
WORKDIR /src
COPY LICENSE README.md pyproject.toml requirements-build.lock requirements-image.lock ./
COPY scripts/assemble scripts/
COPY service/ service/
RUN scripts/assemble /opt/sms-gateway

FROM base
# The base image brings what installs and builds packages. Nothing here is installed at run time.
RUN python -m pip uninstall --yes --quiet --root-user-action ignore setuptools wheel pip
COPY --from=build /opt/sms-gateway /opt/sms-gateway

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sms-gateway" \
      org.opencontainers.image.description="A self-hosted SMS gateway: durable accepts, failover that does not double, signed receipts." \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="MIT"

ENV PATH=/opt/sms-gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SMS_GATEWAY_HOST=0.0.0.0 \
    SMS_GATEWAY_PORT=8080 \
    SMS_GATEWAY_CONFIG=/etc/sms-gateway/gateway.yaml

# It has no name and no home, and writes no file: the root may be read-only.
USER 10001:10001
WORKDIR /
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"SMS_GATEWAY_PORT\"]}/healthz', timeout=3)"]
ENTRYPOINT ["sms-gateway"]
CMD ["serve"]
