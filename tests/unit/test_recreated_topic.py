"""A recreated topic is recorded once, whether a start or the regular check finds it."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from store.settings import Settings
from streams import log_changes
from streams.assignment import CurrentTopic
from streams.log_changes import CONFIRMATIONS, LogChanges


class Scene:
    """The changes of a topic that had the id "old", and what they have recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recorded: list[tuple[str, str]] = []
        self.rewinds = 0
        self.topic = CurrentTopic("old", 4)
        self.found = "old"

        async def describe(*_: object) -> Any:
            return SimpleNamespace(topic_id=self.found)

        async def note(kind: str, topic_id: str, at_ms: int) -> None:
            self.recorded.append((kind, topic_id))

        def rewind() -> None:
            self.rewinds += 1

        monkeypatch.setattr(log_changes, "describe_topic", describe)
        parts: Any = SimpleNamespace(
            counters=SimpleNamespace(reports=SimpleNamespace(note_log_change=note)),
            rewinder=SimpleNamespace(rewind=rewind),
        )
        self.changes = LogChanges(
            Settings(),
            topic=self.topic,
            consumer=parts,
            counters=parts.counters,
            committer=parts,
            writer=parts,
            rewinder=parts.rewinder,
            now_ms=lambda: 7,
        )

    async def start(self) -> None:
        """Find the present topic, as a start does."""
        await self.changes.note_if_recreated(self.found)
        self.topic.topic_id = self.found


@pytest.mark.parametrize("order", ["start", "check", "check, start", "start, check"])
def test_it_is_recorded_once(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    async def check() -> None:
        scene = Scene(monkeypatch)
        await scene.start()
        await scene.changes.check_topic_id()
        assert not scene.recorded
        scene.found = "new"
        for step in order.split(", "):
            await (scene.start() if step == "start" else scene.changes.check_topic_id())
        assert scene.recorded == [("recreated", "new")]
        assert scene.rewinds == (order.startswith("check"))

    asyncio.run(check())


@pytest.mark.parametrize("old_answers", range(CONFIRMATIONS))
def test_a_recreated_topic_whose_former_id_is_still_answered_is_not_truncated(
    monkeypatch: pytest.MonkeyPatch, old_answers: int
) -> None:
    """Whatever the number of brokers' answers with the former id, up to the last look."""
    asked = itertools.count()

    async def describe(*_: object) -> Any:
        return SimpleNamespace(topic_id="old" if next(asked) < old_answers else "new")

    async def check() -> None:
        scene = Scene(monkeypatch)
        monkeypatch.setattr(log_changes, "describe_topic", describe)
        monkeypatch.setattr(log_changes, "CONFIRM_EVERY_S", 0)
        await scene.changes._recover_truncation(0, 5)
        assert not scene.recorded

    asyncio.run(check())
