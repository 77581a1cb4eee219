"""What of a `status` report needs attention, and the command that mends it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from cli.status_document import (
    GapStatus,
    PartitionStatus,
    Problem,
    RunningRebuildStatus,
    Status,
    TenantStatus,
)
from cli.status_words import ago, duration, joined, listed, number, progress_of

#: An event that waits longer than this is not a pause between two reports.
WAIT_MAX_MS: Final = 60_000
#: History may be behind by the events of this time; it is written in batches.
HISTORY_BEHIND_S: Final = 10
HISTORY_BEHIND_OFFSETS: Final = 10_000
#: Incidents that nothing mends need attention for this long.
RECENT: Final = timedelta(days=1)
MEMORY_PERCENT_MAX: Final = 90
#: Longest time for which a restart of Redis may lose counts.
UNSAVED_MAX_S: Final = 3_600
#: Of more tenants with the same problem, one line for all.
TENANTS_EACH: Final = 3

RUN: Final = "interaction-summary"


class _Found(NamedTuple):
    """A problem of one tenant, and its texts for one and for several tenants."""

    kind: str
    text: str
    remedy: str
    text_of_many: str
    remedy_of_many: str


def problems_of(report: Status) -> list[Problem]:
    """Return what needs attention, the most urgent first."""
    return [
        *_unavailable(report),
        *_redis(report),
        *_partitions(report),
        *_tenants(report),
        *_rebuilds(report),
        *_incidents(report),
    ]


# --- stores and partitions


def _unavailable(report: Status) -> Iterator[Problem]:
    for store, error in report.errors.items():
        name = "PostgreSQL" if store == "postgres" else store.capitalize()
        yield Problem(error, f"bring {name} back; its values are unknown until then")


def _partitions(report: Status) -> Iterator[Problem]:
    if report.errors.keys() & {"redis", "kafka"}:
        return
    idle = [p for p in report.partitions if p.owner is None]
    if idle:
        last = max((p.reported_at for p in idle if p.reported_at), default=None)
        said = "no report yet" if last is None else f"last report {ago(report.at, last)}"
        yield Problem(f"no worker counts {_named(idle)} ({said})", f"start workers: `{RUN} worker`")
    waiting = [p for p in report.partitions if p not in idle and (p.waiting_ms or 0) > WAIT_MAX_MS]
    if waiting:
        lag = sum(p.lag or 0 for p in waiting)
        longest_ms = max(p.waiting_ms or 0 for p in waiting)
        yield Problem(
            f"{_named(waiting)}: {lag:,} events are not counted, the oldest waits "
            f"{duration(longest_ms / 1e3)}",
            "start more workers; if the rate is 0, look at the log of the worker that owns it",
        )
    behind = [p for p in report.partitions if _is_history_behind(p)]
    if behind and "postgres" not in report.errors:
        lag = sum(p.history_lag or 0 for p in behind)
        yield Problem(
            f"{_named(behind)}: history is {lag:,} events behind",
            "look at PostgreSQL, and at the log of the workers",
        )


def _is_history_behind(p: PartitionStatus) -> bool:
    if p.history_lag is None or p.lag is None:
        return False
    usual = max(HISTORY_BEHIND_OFFSETS, HISTORY_BEHIND_S * (p.offsets_per_s or 0))
    return p.history_lag - p.lag > usual


def _named(partitions: Sequence[PartitionStatus]) -> str:
    word = "partition" if len(partitions) == 1 else "partitions"
    return f"{word} {listed([str(p.partition) for p in partitions])}"


def _redis(report: Status) -> Iterator[Problem]:
    sizes = report.sizes
    if sizes.redis_evicts_counters:
        yield Problem(
            f"Redis may evict counters: its maxmemory-policy is {sizes.redis_policy}; "
            "history answers",
            "`CONFIG SET maxmemory-policy noeviction`, and the same in its configuration",
        )
    percent = round((sizes.redis_used_ratio or 0) * 100)
    if percent >= 100 and not sizes.redis_evicts_counters:
        yield Problem(
            f"Redis is full ({percent}% of maxmemory): nothing is counted until it has room",
            "raise maxmemory",
        )
    elif percent >= MEMORY_PERCENT_MAX:
        yield Problem(
            f"Redis uses {percent}% of maxmemory; when it is full, counting waits",
            "raise maxmemory",
        )
    if (sizes.redis_unsaved_s or 0) > UNSAVED_MAX_S:
        yield Problem(
            "Redis has no append-only file, and has saved no snapshot for "
            f"{duration(sizes.redis_unsaved_s or 0)}: a restart loses the counts since then",
            "`CONFIG SET appendonly yes`, and the same in its configuration",
        )


# --- tenants


def _tenants(report: Status) -> Iterator[Problem]:
    """Yield the problems of tenants by kind; many tenants with one kind are one problem."""
    running = {rebuild.tenant: rebuild for rebuild in report.rebuilds}
    for find in _KINDS:
        by_kind: dict[str, list[tuple[str, _Found]]] = {}
        for tenant in report.tenants:
            for found in find(report, tenant):
                by_kind.setdefault(found.kind, []).append((tenant.tenant, found))
        for each in by_kind.values():
            yield from _merged(each, running)


def _merged(
    each: Sequence[tuple[str, _Found]], running: dict[str, RunningRebuildStatus]
) -> Iterator[Problem]:
    if len(each) > TENANTS_EACH:
        names = [tenant for tenant, _ in each]
        found = each[0][1]
        text = f"{len(names):,} tenants ({listed(names)}): {found.text_of_many}"
        yield Problem(text, found.remedy_of_many, names)
        return
    for tenant, found in each:
        rebuild = running.get(tenant, running.get("*"))
        is_rebuilding = rebuild is not None and f"{RUN} rebuild" in found.remedy
        remedy = f"a rebuild runs: {progress_of(rebuild)}" if rebuild else ""
        yield Problem(
            f"tenant {tenant}: {found.text}", remedy if is_rebuilding else found.remedy, [tenant]
        )


def _drift(report: Status, tenant: TenantStatus) -> Iterator[_Found]:
    audit = tenant.last_audit
    if audit is None or audit.result != "drift":
        return
    if audit.generation not in (None, tenant.generation):
        return  # those counters were replaced
    counts = f"{audit.cells:,} counts differ" if audit.cells != 1 else "1 count differs"
    sampled = ", in a sample" if audit.sample is not None else ""
    yield _Found(
        "drift",
        f"{counts} from history (audit {ago(report.at, audit.at)}{sampled})",
        f"`{RUN} audit --tenant {tenant.tenant} --repair`",
        "counts differ from history",
        f"`{RUN} audit --repair`",
    )


def _gaps(report: Status, tenant: TenantStatus) -> Iterator[_Found]:
    if not tenant.missing.gaps:
        return
    yield _Found(
        "gap",
        f"generation {tenant.generation} lacks {_ranges(tenant.missing.gaps)}, which history has; "
        "history answers",
        f"`{RUN} rebuild --tenant {tenant.tenant} --from history`",
        "the counters lack offsets that retention took, and history has them; history answers",
        f"`{RUN} rebuild --tenant T --from history` for each; without --tenant, for all",
    )


def _unproven(report: Status, tenant: TenantStatus) -> Iterator[_Found]:
    if not tenant.missing.unproven:
        return
    yield _Found(
        "unproven",
        f"generation {tenant.generation} started empty, and history may have more; history answers",
        f"`{RUN} rebuild --tenant {tenant.tenant}`, unless the topic has all of it: then wait",
        "the counters started empty, and history may have more; history answers",
        f"`{RUN} rebuild --tenant T` for each; without --tenant, for all",
    )


def _evicted(report: Status, tenant: TenantStatus) -> Iterator[_Found]:
    if not tenant.missing.evicted:
        return
    yield _Found(
        "evicted",
        f"Redis has evicted keys, perhaps of generation {tenant.generation}; history answers",
        f"once its maxmemory-policy is noeviction: `{RUN} rebuild --tenant {tenant.tenant}`",
        "Redis has evicted keys, perhaps of the counters; history answers",
        f"once its maxmemory-policy is noeviction: `{RUN} rebuild`",
    )


def _damaged(report: Status, tenant: TenantStatus) -> Iterator[_Found]:
    if not tenant.missing.damaged:
        return
    yield _Found(
        "damaged",
        f"a script that changed generation {tenant.generation} failed half-way "
        f"({tenant.missing.damaged}); history answers",
        f"`{RUN} rebuild --tenant {tenant.tenant}`",
        "scripts that changed the counters failed half-way; history answers",
        f"`{RUN} rebuild --tenant T` for each; without --tenant, for all",
    )


def _outdated(report: Status, tenant: TenantStatus) -> Iterator[_Found]:
    if tenant.complete or not tenant.missing.outdated:
        return
    yield _Found(
        "outdated",
        f"generation {tenant.generation} was made by an older version; history answers",
        f"`{RUN} rebuild --tenant {tenant.tenant}`; workers do it at their start",
        "the counters were made by an older version; history answers",
        f"`{RUN} rebuild`; workers do it at their start",
    )


def _unsettled(report: Status, tenant: TenantStatus) -> Iterator[_Found]:
    if not tenant.missing.unsettled:
        return
    yield _Found(
        "unsettled",
        f"the change to the shards of generation {tenant.generation} was not finished; history "
        "answers",
        "any worker finishes it within seconds: look at the log of the workers",
        "a change of shards was not finished; history answers",
        "any worker finishes it within seconds: look at the log of the workers",
    )


def _behind(report: Status, tenant: TenantStatus) -> Iterator[_Found]:
    behind = tenant.missing.behind
    gone = [b for b in behind if report.topic_id is not None and b.topic_id != report.topic_id]
    if gone:
        left = sum(b.target - b.counted for b in gone)
        yield _Found(
            "behind in an old topic",
            f"generation {tenant.generation} lacks {left:,} offsets of a topic that is gone; "
            "history answers",
            f"`{RUN} rebuild --tenant {tenant.tenant}`",
            "the counters lack offsets of a topic that is gone; history answers",
            f"`{RUN} rebuild --tenant T` for each; without --tenant, for all",
        )
    reading = [b for b in behind if b not in gone]
    if reading:
        left = sum(b.target - b.counted for b in reading)
        target = sum(b.target for b in reading)
        word = "partition" if len(reading) == 1 else "partitions"
        where = listed([str(b.partition) for b in reading])
        yield _Found(
            "behind",
            f"generation {tenant.generation} is catching up, {left:,} of {target:,} offsets to go "
            f"({word} {where}); history answers",
            "nothing: workers count them",
            "the counters are catching up after a swap or a rollback; history answers",
            "nothing: workers count what is missing",
        )


def _zone(report: Status, tenant: TenantStatus) -> Iterator[_Found]:
    zone = tenant.catalog_timezone
    if zone is None or zone == tenant.timezone:
        return
    yield _Found(
        "zone",
        f"its time zone is {zone}, and the counters have days of {tenant.timezone}; "
        "history answers",
        f"`{RUN} rebuild --tenant {tenant.tenant}`",
        "the time zone has changed; history answers",
        f"`{RUN} rebuild --tenant T` for each; without --tenant, for all",
    )


def _overflow(report: Status, tenant: TenantStatus) -> Iterator[_Found]:
    remedy = f"raise it if Redis has room, then `{RUN} rebuild --tenant {tenant.tenant}`"
    remedy_of_many = f"raise it if Redis has room, then `{RUN} rebuild --tenant T` for each"
    if groupings := [limited for limited in tenant.over if limited != "customer_offers"]:
        yield _Found(
            "overflow",
            f"more ids than KEYS_PER_GROUPING_MAX ({joined(groupings)}); history answers there",
            remedy,
            "more ids than KEYS_PER_GROUPING_MAX; history answers there",
            remedy_of_many,
        )
    if "customer_offers" in tenant.over:
        text = "customers with more offers than OFFERS_PER_CUSTOMER_MAX; history answers there"
        yield _Found("offers", text, remedy, text, remedy_of_many)


def _late_roll(report: Status, tenant: TenantStatus) -> Iterator[_Found]:
    today = datetime.fromisoformat(report.at).astimezone(ZoneInfo(tenant.timezone)).date()
    # Just after midnight the windows still end with yesterday.
    if tenant.day >= (today - timedelta(days=1)).isoformat():
        return
    yield _Found(
        "windows",
        f"its windows end with {tenant.day}, and today is {today.isoformat()}",
        "any worker rolls them: look at the log of the workers",
        "the windows end days ago",
        "any worker rolls them: look at the log of the workers",
    )


_KINDS: Final[Sequence[Callable[[Status, TenantStatus], Iterator[_Found]]]] = (
    _drift,
    _evicted,
    _damaged,
    _outdated,
    _unsettled,
    _gaps,
    _unproven,
    _zone,
    _late_roll,
    _overflow,
    _behind,
)


def _ranges(gaps: Sequence[GapStatus]) -> str:
    return joined(
        [f"offsets {g.first:,} to {g.end - 1:,} of partition {g.partition}" for g in gaps],
        shown_max=2,
    )


# --- rebuilds and incidents


def _is_recent(report: Status, at: str) -> bool:
    return datetime.fromisoformat(report.at) - datetime.fromisoformat(at) < RECENT


def _rebuilds(report: Status) -> Iterator[Problem]:
    failed = {
        tenant: rebuild
        for tenant, rebuild in report.failed_rebuilds.items()
        if _is_recent(report, rebuild.at)
    }
    if len(failed) > TENANTS_EACH:
        yield Problem(
            f"the last rebuild of {len(failed):,} tenants failed ({listed(list(failed))})",
            f"`{RUN} status --json` has the reasons, in failedRebuilds",
            list(failed),
        )
        return
    for tenant, rebuild in failed.items():
        yield Problem(
            f"tenant {tenant}: its last rebuild failed {ago(report.at, rebuild.at)}: "
            f"{rebuild.reason}",
            f"mend the cause, then `{RUN} rebuild --tenant {tenant}`; the live counters are as "
            "before",
            [tenant],
        )


def _incidents(report: Status) -> Iterator[Problem]:
    if report.history_gaps:
        yield Problem(
            f"history lacks {_ranges(report.history_gaps)}: the counters have the only copy of "
            "these events, if any",
            "restore these rows from a backup; do not rebuild with --force",
        )
    for change in report.log_changes:
        if _is_recent(report, change.at):
            kind = "truncated" if change.kind == "cut" else change.kind
            yield Problem(
                f"the topic was {kind} {ago(report.at, change.at)}",
                f"when the lag is 0: `{RUN} audit`; send again what was not counted by then",
            )
    newest = report.newest_dead_letter_at
    if report.dead_letters and newest is not None and _is_recent(report, newest):
        yield Problem(
            f"dead letters: {number(report.dead_letters)}, the newest {ago(report.at, newest)}",
            f"`{RUN} dlq list`, then `{RUN} dlq redrive` once the cause is gone",
        )
    stored = report.newest_quarantined_at
    if report.quarantined and stored is not None and _is_recent(report, stored):
        yield Problem(
            f"quarantined records: {number(report.quarantined)}, the newest "
            f"{ago(report.at, stored)}: they are neither counted nor in the dead-letter topic",
            f"`{RUN} dlq list` says why; send them again from their source",
        )
