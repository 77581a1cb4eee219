"""Events that `load` and `up --demo` send.

- `source`: the records to send, from `synthetic` (the generator) or from a file via `recorded`.
- `demo_catalog`: offers, treatments and channels of the events; `demo`: what `up --demo` adds.
"""
