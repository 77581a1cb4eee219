"""Tests of the rendered Helm chart. `.ci/helm` builds helm and runs them; they need no server."""
