"""The servers that tests run on.

`base` has the interface of a server and the faults it can be given; `wheels`, `containers` and
`real` implement it; `start` chooses one of these kinds, starts its servers and stops them.
"""
