"""Audit: the counters of a tenant compared with its history, and repaired where they differ.

- `cells`: what the counters should have, the cells that differ, the corrections. Pure
- `groups`: which groups are compared: all of them, or a sample
- `segment`: both stores' counts of some groups, at one consistent point
- `auditor`: the audit of a tenant, whole or sampled, and its repair
- `periodic`: the sampled audit that workers make
"""
