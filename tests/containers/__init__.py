"""Tests of the image and of docker-compose.yml on a Docker engine; `.ci/containers` runs them.

They are not part of `make test`, and fail where no engine or no Compose 2 answers.
"""
