"""Unit tests: one module in memory, stores replaced by doubles; no server is started."""
