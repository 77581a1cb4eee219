"""Errors of a rebuild."""

from __future__ import annotations


class RebuildError(Exception):
    """A rebuild or a rollback was not possible; the active generation is unchanged."""


class AlreadyRunningError(RebuildError):
    """Another rebuild of the tenant is running."""
