# Two stages. The first has a compiler, because some dependencies have no wheel for some processors.
# The second is an image without a compiler; it receives the installed environment.
FROM python:3.13-bookworm AS build
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
RUN pip install --no-deps .

FROM python:3.13-slim-bookworm
RUN useradd --system --user-group --no-create-home interaction-summary
COPY --from=build /opt/interaction-summary /opt/interaction-summary
ENV PATH=/opt/interaction-summary/bin:$PATH PYTHONUNBUFFERED=1
USER interaction-summary
WORKDIR /tmp
# Runs as process 1, without a shell, so that SIGTERM reaches it.
ENTRYPOINT ["interaction-summary"]
CMD ["--help"]
