"""Integration tests: modules on real servers of Kafka, Redis and PostgreSQL (`--services`)."""
