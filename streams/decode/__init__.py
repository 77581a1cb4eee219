"""Decoding of Kafka records into events: pure functions without I/O and without a clock.

The caller passes the current time. Data flows through the modules in this order:

1. `decoder`: `Decoder.decode(value, now_ms)` returns an Event, a Skipped or a Rejected.
2. `fast`: reads nearly every event with a strict msgspec Struct, else returns None.
3. `strict`: reads what `fast` did not. It defines the rules and names the rule that was broken.
4. `event`: builds the Event for both readers: time, identity.
5. `timestamps`: ISO 8601 text to and from milliseconds since the Unix epoch.
6. `rejection`: the reasons why a record is a dead letter, and the text that explains one.
"""
