# Two stages: the first has a compiler, which some processors need (not every wheel is built for
# every one); what it made goes into an image without.
FROM python:3.13-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/interaction-summary
ENV PATH=/opt/interaction-summary/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The dependencies first, so that a change of our own code does not install them again.
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
# Started as process 1 without a shell, so that SIGTERM reaches it.
ENTRYPOINT ["interaction-summary"]
CMD ["--help"]
