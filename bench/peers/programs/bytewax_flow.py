"""Bytewax, one worker, with recovery as shipped (a snapshot every 10 s).

Events are keyed by customer, whose state has identities, tiles and last days of actions. Sums of
a batch are then keyed by group. Bytewax answers no queries: at the end of the input each key emits
its state, from which the cells are computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import bytewax.operators as op
from bytewax._bytewax import cluster_main
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from confluent_kafka import OFFSET_BEGINNING

from bench.peers.cells import Tile, distinct_actions, from_tiles
from bench.peers.programs.consuming import Days, decode
from bench.peers.programs.reports import Arguments, Progress, answer, arguments, report

BATCH_EVENTS = 5_000
GROUPINGS = {"a": "action", "t": "treatment", "c": "channel"}

#: (day, outcome type) -> events
Counts = dict[tuple[int, str], int]


class Counted(NamedTuple):
    """What is counted of an event."""

    identity: str
    action: str
    treatment: str
    channel: str
    outcome: str
    day: int


class CustomerState(NamedTuple):
    """State of one customer."""

    identities: set[str]
    tiles: Counts
    last_days: dict[str, int]
    """Action -> last day."""


class CustomerLogic(StatefulBatchLogic):  # type: ignore[misc]
    """State of a customer: passes on the events whose identity is new."""

    def __init__(self, state: CustomerState | None) -> None:
        self._state = state or CustomerState(set(), {}, {})

    def on_batch(self, values: list[Counted]) -> tuple[Iterable[Counted], bool]:
        """Count events of this customer."""
        identities, tiles, last_days = self._state
        fresh: list[Counted] = []
        for event in values:
            if event.identity in identities:
                continue
            identities.add(event.identity)
            tile = (event.day, event.outcome)
            tiles[tile] = tiles.get(tile, 0) + 1
            last_days[event.action] = max(last_days.get(event.action, 0), event.day)
            fresh.append(event)
        return fresh, False

    def on_eof(self) -> tuple[Iterable[CustomerState], bool]:
        """Emit the state."""
        return [self._state], False

    def snapshot(self) -> CustomerState:
        """Return a copy of the state."""
        identities, tiles, last_days = self._state
        return CustomerState(set(identities), dict(tiles), dict(last_days))


class GroupLogic(StatefulBatchLogic):  # type: ignore[misc]
    """Tiles of a group."""

    def __init__(self, state: Counts | None) -> None:
        self._tiles = state or {}

    def on_batch(self, values: list[Counts]) -> tuple[Iterable[Counts], bool]:
        """Add sums of batches."""
        tiles = self._tiles
        for sums in values:
            for tile, events in sums.items():
                tiles[tile] = tiles.get(tile, 0) + events
        return (), False

    def on_eof(self) -> tuple[Iterable[Counts], bool]:
        """Emit the tiles."""
        return [self._tiles], False

    def snapshot(self) -> Counts:
        """Return a copy of the tiles."""
        return dict(self._tiles)


class Collector(StatelessSinkPartition):  # type: ignore[misc]
    """Sink that keeps the tiles of each group."""

    def __init__(self, groups: dict[str, Counts]) -> None:
        self._groups = groups

    def write_batch(self, items: list[tuple[str, Counts]]) -> None:
        """Keep the tiles of some groups."""
        self._groups.update(items)


class CollectorSink(DynamicSink):  # type: ignore[misc]
    """Sink of one worker."""

    def __init__(self, groups: dict[str, Counts]) -> None:
        self._groups = groups

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Collector:
        """Return the sink of a worker."""
        return Collector(self._groups)


class Flow:
    """The dataflow, and the states that its keys emitted."""

    def __init__(self, options: Arguments) -> None:
        self._progress = Progress(options.distinct)
        self._options = options
        self._days = Days()
        self._started = self._done = False
        self.customers: dict[str, CustomerState] = {}
        self.groups: dict[str, Counts] = {}

    def build(self) -> Any:
        """Return the dataflow."""
        options = self._options
        flow = Dataflow("peer")
        source = KafkaSource(
            [options.bootstrap],
            [options.topic],
            tail=False,
            starting_offset=OFFSET_BEGINNING,
            batch_size=BATCH_EVENTS,
        )
        stream = op.input("in", flow, source)
        stream = op.flat_map_batch("parse", stream, self._parse)
        stream = op.stateful_batch("customers", stream, CustomerLogic)
        stream = op.flat_map_batch("sums", stream, self._sums)
        stream = op.stateful_batch("groups", stream, GroupLogic)
        op.output("out", stream, CollectorSink(self.groups))
        return flow

    def _parse(self, records: list[KafkaSourceMessage]) -> list[tuple[str, Counted]]:
        if records and not self._started:
            self._started = True
            report("FIRST")
        days = self._days
        return [
            (
                event.customerId,
                Counted(
                    event.interactionId,
                    event.offerId,
                    event.creativeId,
                    event.channelId,
                    event.outcomeTypeKey,
                    days[event.timestamp[:10]],
                ),
            )
            for event in (decode(record.value) for record in records)
        ]

    def _sums(self, batch: list[tuple[str, Counted | CustomerState]]) -> list[tuple[str, Counts]]:
        sums: defaultdict[str, Counts] = defaultdict(dict)
        counted = 0
        for customer, item in batch:
            if isinstance(item, CustomerState):
                self.customers[customer] = item
                continue
            counted += 1
            tile = (item.day, item.outcome)
            for group in (f"a|{item.action}", f"t|{item.treatment}", f"c|{item.channel}"):
                of_group = sums[group]
                of_group[tile] = of_group.get(tile, 0) + 1
        if self._progress.add(counted) and not self._done:
            self._done = True
            report("DONE")  # before the keys emit their states, which only the oracle needs
        return list(sums.items())

    def tiles(self) -> Iterator[Tile]:
        """Yield the tiles of all groups."""
        for name, counts in self.groups.items():
            code, _, group = name.partition("|")
            for (day, outcome), events in counts.items():
                yield Tile(GROUPINGS[code], group, day, outcome, events)
        for customer, state in self.customers.items():
            for (day, outcome), events in state.tiles.items():
                yield Tile("customer", customer, day, outcome, events)

    def last_days(self) -> Iterator[tuple[str, int]]:
        """Yield customer and last day of each of their actions, for the sampled customers."""
        for customer in self._options.sample & self.customers.keys():
            yield from ((customer, day) for day in self.customers[customer].last_days.values())


def main() -> None:
    options = arguments()
    flow = Flow(options)
    options.folder.mkdir(parents=True)
    init_db_dir(options.folder, 1)
    cluster_main(flow.build(), [], 0, recovery_config=RecoveryConfig(options.folder))
    cells = from_tiles(flow.tiles(), options.today, options.sample)
    answer(options, cells | distinct_actions(flow.last_days(), options.today))


if __name__ == "__main__":
    main()
