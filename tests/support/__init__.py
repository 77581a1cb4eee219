"""What tests share. Test modules import from here and never from each other.

Servers: `services/` starts and stops them, `resources` makes topics and settings for one test.

The program under test: `program` runs its commands, `worker_process` and `worker_fixture` one
worker with clients of its stores, `reader_pair` a reader of the counters beside one of history.

Data: `events` makes events, `zones` lists time zones. `expected` and `oracle` count events in plain
Python, once over JSON payloads and once over decoded events; `answers` compares responses with it.

Shared tests: `contract` is the test suite that every store of counters has to pass,
`state_machine` its model-based part. `chaos` is a run with seeded faults, `fuzz` one with mutated
records; `accounting` finds where each record of a topic has ended. `waiting` polls a condition.
`trace_collector` takes what a process sends as traces.
"""
