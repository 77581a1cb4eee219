"""A rebuild counts each event once, whatever answers of Redis are lost on the way."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from store.settings import Settings
from store.windows import DAY_MS
from streams.commit import CounterCommitter
from streams.rebuild import Options, Rebuilder, RebuildResult, RollbackResult, open_rebuilder
from streams.rebuild.plan import From
from tests.support.contract import assert_counts
from tests.support.events import NOW_MS, TODAY, make_event, sourced
from tests.support.redis_proxy import RedisProxy
from tests.support.replay import ReplayFixture

KINDS = {"activation", "commit", "create", "drop", "identities", "lease", "swap"}


class LostAnswers(ReplayFixture):
    """A topic and stores; the rebuilds reach Redis through a proxy."""

    def __init__(self, settings: Settings, proxy: RedisProxy) -> None:
        super().__init__(settings)
        self.proxy = proxy

    async def fill(self, source: From) -> None:
        """Send events; history has all, or for `auto` those of the first half only."""
        chosen = random.Random(4)
        for partition in range(2):
            events = [
                make_event(
                    customer=f"C-{chosen.randrange(40)}",
                    offer=f"off_{chosen.randrange(6)}",
                    outcome=chosen.choice(("impression", "click", "convert")),
                    occurred_ms=NOW_MS - chosen.randrange(50 * DAY_MS),
                )
                for _ in range(100)
            ]
            await self.send(partition, [*events, *events[:10]])
        ends = {partition: len(events) for partition, events in self.topic.items()}
        await self.count(ends)
        await self.store_history(
            {p: end // 2 for p, end in ends.items()} if source == "auto" else ends
        )

    @asynccontextmanager
    async def open_rebuilder(self) -> AsyncIterator[Rebuilder]:
        through_proxy = self.settings.model_copy(
            update={"redis_url": self.proxy.url, "redis_prefix": "is"}
        )
        async with open_rebuilder(through_proxy, now_ms=lambda: NOW_MS) as rebuilder:
            yield rebuilder

    async def run(self, source: From) -> RebuildResult:
        async with self.open_rebuilder() as rebuilder:
            options = Options(source=source)
            (outcome,) = [outcome async for outcome in rebuilder.rebuild(["acme"], options)]
        assert isinstance(outcome, RebuildResult), f"lost {self.proxy.lost}: {outcome}"
        return outcome

    async def check(self, result: RebuildResult) -> None:
        """Check the counters, that copies are recognised, and that nothing is left over."""
        lost = f"lost {self.proxy.lost}"
        await assert_counts(self.counters, self.distinct(), TODAY)
        active = await self.counters.generation("acme")
        assert active is not None and (active.number, active.complete) == (
            result.generation,
            True,
        ), lost
        assert result.events == 200, lost
        numbers = {
            int(key.split(b":")[2]) async for key in self.client.scan_iter("is:{acme/0}:*:meta")
        }
        assert numbers == {active.number, result.previous_generation}, lost
        assert not await self.client.exists("is:{acme/0}:rebuild"), lost

    async def send_copies(self) -> None:
        """Commit all events again, as the worker does after a redelivery: none is counted."""

        async def utc(_: str) -> str:
            return "UTC"

        committer = CounterCommitter(
            self.counters, self.history, now_ms=lambda: NOW_MS, timezone_of=utc
        )
        ends = {partition: len(events) for partition, events in self.topic.items()}
        committer.start_session(self.topic_id, ends)
        again = [*self.topic[0], *self.topic[1]]
        await committer.commit("acme", 3, sourced(*again), len(again))
        await assert_counts(self.counters, self.distinct(), TODAY)


async def _with_losses(
    settings: Settings, source: From, loses: Callable[[int, str], bool]
) -> RedisProxy:
    async with (
        RedisProxy().open(settings.redis_url) as proxy,
        LostAnswers(settings, proxy) as replay,
    ):
        await replay.fill(source)
        proxy.loses = loses
        await replay.check(await replay.run(source))
        await replay.send_copies()
        return proxy


@pytest.mark.parametrize(
    "source",
    ["auto", *(pytest.param(each, marks=pytest.mark.long) for each in ("topic", "history"))],
)
def test_the_answer_of_any_one_script_call_may_be_lost(settings: Settings, source: From) -> None:
    async def check() -> None:
        async with (
            RedisProxy().open(settings.redis_url) as proxy,
            LostAnswers(settings, proxy) as replay,
        ):
            await replay.fill(source)
            lost = []
            for index in range(100):
                proxy.calls.clear()
                proxy.lost.clear()
                calls = itertools.count()

                def loses(_: int, name: str, index: int = index) -> bool:
                    # A rebuild drops one generation after another: the first of them will do.
                    skipped = name == "drop" and proxy.calls.count("drop") > 1
                    return not skipped and next(calls) == index  # noqa: B023

                proxy.loses = loses
                result = await replay.run(source)
                if not proxy.lost:
                    break
                lost += proxy.lost
                await replay.check(result)
            # How often a lease is renewed, and how many commits it takes, depends on time: the loop
            # may end one call before the last one.
            for kind in sorted(KINDS - set(lost)):
                proxy.lost.clear()
                proxy.loses = _first_of(kind)
                await replay.check(await replay.run(source))
                lost += proxy.lost
            assert set(lost) >= KINDS, lost
            assert lost[0] == "lease", "from the first call on"
            await replay.send_copies()

    asyncio.run(check())


@pytest.mark.parametrize("kind", sorted(KINDS - {"drop"}))
def test_copies_are_recognised_after_an_answer_was_lost(settings: Settings, kind: str) -> None:
    proxy = asyncio.run(_with_losses(settings, "topic", _first_of(kind)))
    assert proxy.lost == [kind]


@pytest.mark.parametrize("seed", range(3))
def test_many_answers_may_be_lost(settings: Settings, seed: int) -> None:
    source: From = ("topic", "history", "auto")[seed % 3]
    chosen = random.Random(seed)
    proxy = asyncio.run(_with_losses(settings, source, lambda *_: chosen.random() < 0.4))
    assert len(proxy.lost) > 1


def _first_of(kind: str) -> Callable[[int, str], bool]:
    done = False

    def loses(_: int, name: str) -> bool:
        nonlocal done
        if done or name != kind:
            return False
        done = True
        return True

    return loses


def test_a_rollback_whose_answer_is_lost_succeeds(settings: Settings) -> None:
    async def check() -> None:
        async with (
            RedisProxy().open(settings.redis_url) as proxy,
            LostAnswers(settings, proxy) as replay,
        ):
            await replay.fill("topic")
            await replay.run("topic")
            await replay.send(0, [make_event()])
            await replay.count({0: len(replay.topic[0])})
            proxy.loses = _first_of("rollback")
            async with replay.open_rebuilder() as rebuilder:
                (outcome,) = [outcome async for outcome in rebuilder.roll_back("acme")]
            assert isinstance(outcome, RollbackResult), outcome
            assert proxy.lost == ["rollback"]
            assert outcome.generation == 1
            (behind,) = outcome.behind
            assert (behind.source[1], behind.target - behind.watermark) == (0, 1)
            active = await replay.counters.generation("acme")
            assert active is not None and active.number == 1

    asyncio.run(check())
