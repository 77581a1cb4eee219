"""The project beside other systems that could do its work, on one Apache Kafka topic.

    python -m bench.peers --list
    python -m bench.peers --only ours-1,pg-upsert --rounds 1 --events 20000

Each system reads the same log, one system at a time, and its cells are compared with an oracle.

- `log`: makes the log and the oracle; `cells`: names of cells, and their comparison
- `systems`: the systems; `abilities`: what each can do and cannot do
- `environments`: the copy of our code, environments of Python, and jars
- `topic`: the broker and the topic that all systems read
- `machine`: load, speed and description of the machine
- `measuring`: rates and processor time between two reports of a system
- `runs`: one run of a system
- `report`: the table and the page docs/benchmarks.md
- `programs`, `java`: the programs of the peers
"""
