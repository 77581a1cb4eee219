# Two stages. The first has a compiler, because some dependencies have no wheel for some processors.
# The second is an image without a compiler; it receives the installed environment.
FROM python:3.13.11-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/interaction-summary
ENV PATH=/opt/interaction-summary/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Dependencies first, so that a change of our own code does not reinstall them.
COPY requirements-runtime.lock .
RUN pip install --require-hashes -r requirements-runtime.lock
COPY pyproject.toml README.md ./
COPY store store
COPY streams streams
COPY api api
COPY cli cli
RUN pip install --no-deps . && pip uninstall --quiet --yes pip

FROM python:3.13.11-slim-bookworm
ARG REVISION=unknown
LABEL org.opencontainers.image.title="interaction-summary" \
    org.opencontainers.image.description="Exact rolling counters of customer interactions" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="$REVISION"
# The image's own pip is removed as well: nothing is installed in a running container.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin interaction-summary \
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/site-packages/pip*
COPY --from=build /opt/interaction-summary /opt/interaction-summary
COPY container/healthcheck.py /opt/interaction-summary/healthcheck.py
ENV PATH=/opt/interaction-summary/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# By number, so that Kubernetes can tell that it is not root (runAsNonRoot).
USER 10001:10001
# The only folder that the program writes to. The rest of the file system can be read-only.
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/interaction-summary/healthcheck.py"]
# Runs as process 1, without a shell, so that SIGTERM reaches it.
ENTRYPOINT ["interaction-summary"]
CMD ["--help"]
