"""Arrays that we encode ourselves are read by PostgreSQL with the same elements."""

from __future__ import annotations

import uuid

import pytest

from store.postgres.arrays import Texts, Uuids
from store.postgres.pool import make_pool, transaction
from store.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("n", [0, 1, 3, 5_000])
async def test_postgres_returns_the_elements_of_an_encoded_array(
    settings: Settings, n: int
) -> None:
    texts = [("acme", "Größe", "", "日本", "a'\"\\{},")[i % 5] for i in range(n)]
    ids = [uuid.uuid4() for _ in range(n)]
    async with make_pool(settings, max_size=1) as pool, transaction(pool) as connection:
        cursor = await connection.execute(
            "SELECT %(texts)s::text[], %(ids)s::uuid[]",
            {"texts": Texts.of(texts), "ids": Uuids.of(i.bytes for i in ids)},
        )
        assert await cursor.fetchone() == (texts, ids)
