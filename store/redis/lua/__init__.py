"""Lua scripts of the counters, loaded by `store.redis.client.Script`.

`layout.lua` precedes every script; `common.lua` also precedes every script that changes counters.
"""
