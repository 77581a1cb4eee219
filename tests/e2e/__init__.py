"""End-to-end tests: worker, API and CLI as processes on real servers, with faults."""
