"""Simulates an owner of a newer release, as replicas of this release see it in Redis and PostgreSQL."""

from __future__ import annotations

import json

import msgspec

from tests.cluster import Cluster

COPY = "INSERT INTO {table} SELECT (jsonb_populate_record(m, $2::text::jsonb)).* FROM {table} m WHERE m.{key} = $1"
END = """
UPDATE reply r SET state = former.state, finish_reason = former.finish_reason, usage = former.usage,
    last_sequence = $3, end_time_us = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
FROM reply former WHERE r.id = $1 AND former.id = $2
"""


class Newer:
    """It holds a lease, and owns a reply that takes the place of a `former` one, which has ended."""

    def __init__(self, cluster: Cluster, former: str) -> None:
        self.reply_id = f"{former[:-4]}newr"
        self._cluster = cluster
        self._former = former
        self._message_id = f"{former[:-4]}text"
        self._key = f"parley:{{{self.reply_id}}}"
        self._last = 0

    async def own(self, request_id: str) -> None:
        """The reply runs, and is what the request leads to."""
        rows = self._cluster.rows
        await rows("INSERT INTO replica VALUES ('newer', 4000000000000000, 1)")
        running = {"id": self.reply_id, "owner": "newer", "state": "STREAMING", "message_id": self._message_id}
        running |= {"finish_reason": None, "usage": None, "last_sequence": 0, "end_time_us": 0}
        await rows(COPY.format(table="reply", key="id"), self._former, json.dumps(running))
        await rows("UPDATE idempotency_key SET resource_id = $1 WHERE key = $2", self.reply_id, request_id)

    def say(self, *values: str, silently: bool = False) -> None:
        """Entries as they are written, in messages that have grown; `silently`: not published."""
        redis = self._cluster.redis
        for number, value in enumerate(values, start=self._last + 1):
            redis.command("XADD", f"{self._key}:log:1", f"{number}-0", "e", value)
        redis.command("HSET", self._key, "fence", 1, "writer", 1, "mood", "serene")
        if not silently:
            message = (1, self._last + 1, values, {"what": "is new"}, 7)
            redis.command("PUBLISH", self._key, msgspec.msgpack.encode(message))
        self._last += len(values)

    async def end(self, whole: str) -> None:
        """It has ended with this text, otherwise as the former one did."""
        rows, redis = self._cluster.rows, self._cluster.redis
        message = {"id": self._message_id, "reply_id": self.reply_id, "position": 99}
        message["parts"] = json.dumps([{"type": "text", "text": whole}])
        await rows(COPY.format(table="message", key="reply_id"), self._former, json.dumps(message))
        await rows(END, self.reply_id, self._former, self._last + 1)
        redis.command("HSET", self._key, "ended", 1)
        redis.command("PUBLISH", self._key, msgspec.msgpack.encode((1, self._last)))
