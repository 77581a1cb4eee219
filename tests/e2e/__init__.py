"""Tests of the running program: commands, workers and APIs on real servers, with faults."""
