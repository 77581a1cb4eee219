"""Tests of modules together with real servers."""
