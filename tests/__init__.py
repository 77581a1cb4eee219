"""Tests: `unit` without servers, `integration` on servers, `e2e` with processes of the program."""
