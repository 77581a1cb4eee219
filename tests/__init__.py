"""Tests, by what they need.

- `unit`: one module in memory; no server, no network
- `integration`: modules on real servers
- `e2e`: the program as its users run it, with faults
- `support`: what tests share: servers, the contract suite, oracles, fixtures
- `data`: recorded interactions and their catalog
"""
