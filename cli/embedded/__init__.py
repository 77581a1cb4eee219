"""Embedded stack of `up`: a broker, Valkey and PostgreSQL as child processes.

- `stack`: the three servers in one data folder, started in order and stopped in reverse.
- `servers`: Broker, Valkey, Postgres; `server`: their base class and the search for free ports.
- `private_folder`: folders, files and sockets without access for other users.
- `programs`: where the programs are; `postgres_home`: the user and the folders of PostgreSQL.
- `command`: our own commands, restarted when they end.
- `child_process`: start, log file and stop of any child; `launch`: runs between fork and exec.
"""
