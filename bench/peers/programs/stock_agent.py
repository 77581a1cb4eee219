"""Stock Faust agent: one pipeline of HINCRBY per event, for four groupings in four periods.

It has no identities, no ranks, no history and no daily roll: it does the minimum of such an agent.
Its periods are those of the calendar, since rolling windows would need the daily roll.
"""

from __future__ import annotations

import os
import tempfile
from datetime import datetime

import faust
from redis.asyncio import Redis

PREFIX = os.environ["REDIS_PREFIX"]
GROUPINGS = ("offerId", "creativeId", "channelId", "customerId")

app = faust.App(
    os.environ["CONSUMER_GROUP"],
    broker=f"kafka://{os.environ['KAFKA_BOOTSTRAP_SERVERS']}",
    datadir=tempfile.gettempdir(),
    web_enabled=False,
    topic_disable_leader=True,
    topic_allow_declare=False,
    broker_session_timeout=10.0,
    broker_rebalance_timeout=10.0,
    consumer_auto_offset_reset="earliest",
)
topic = app.topic(os.environ["INTERACTIONS_TOPIC"], value_serializer="json")
redis = Redis.from_url(os.environ["REDIS_URL"])


@app.agent(topic)  # type: ignore[untyped-decorator]
async def count(stream: faust.StreamT) -> None:
    """Count each event in Redis."""
    async for event in stream:
        moment = datetime.fromisoformat(event["timestamp"])
        outcome = event["outcomeTypeKey"]
        pipeline = redis.pipeline(transaction=False)
        for grouping in GROUPINGS:
            group = f"{PREFIX}:{event['tenantId']}:{grouping}:{event.get(grouping)}"
            for period in (f"{moment:%Y-%m-%d}", f"{moment:%G-W%V}", f"{moment:%Y-%m}", "all"):
                pipeline.hincrby(f"{group}:{period}", outcome, 1)
        pipeline.incr(f"{PREFIX}:counted")
        await pipeline.execute()


if __name__ == "__main__":
    app.main()
