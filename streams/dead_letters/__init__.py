"""Dead letters: records that cannot be counted, kept in a topic of their own.

Data flows through the modules in this order:

1. `record`: the types: a rejected record inside the worker, a message of the dead-letter topic.
2. `alarm`: reports when too many of the last events are rejected.
3. `headers`: writes and parses the headers that say why and from where.
4. `sink`: sends rejected records to the dead-letter topic, once as far as Kafka allows.
5. `reader`: reads the topic back and lists its dead letters.
6. `redrive`: sends dead letters to the source topic again after the cause is fixed.
"""
