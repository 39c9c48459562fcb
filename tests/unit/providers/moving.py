"""A clock that a test advances, and a recording sink."""

import asyncio


class MovingClock:
    """Stands still until `advance`; timers fire in order of time."""

    def __init__(self):
        self.now = 1000.0
        self.timers = []

    def now_us(self):
        return int(self.now * 1e6)

    def monotonic(self):
        return self.now

    def call_at(self, when, callback):
        timer = MovingTimer(self, when, callback)
        self.timers.append(timer)
        return timer

    async def sleep(self, delay_s):
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        over = asyncio.get_running_loop().create_future()
        timer = self.call_at(self.now + delay_s, lambda: over.done() or over.set_result(None))
        try:
            await over
        finally:
            timer.cancel()

    async def advance(self, seconds):
        """Advance by these seconds, and run everything that is due."""
        end = self.now + seconds
        await settle()
        while (
            due := min((timer for timer in self.timers if timer.when <= end), key=by_time, default=None)
        ) is not None:
            self.timers.remove(due)
            self.now = max(self.now, due.when)
            due.callback()
            await settle()
        self.now = end


class MovingTimer:
    def __init__(self, clock, when, callback):
        self.clock, self.when, self.callback = clock, when, callback

    def cancel(self):
        if self in self.clock.timers:
            self.clock.timers.remove(self)


def by_time(timer):
    return timer.when


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


class Recorder:
    """Records all pushes in order, and the aliases of the models that were asked."""

    reply_id = "reply-1"

    def __init__(self):
        self.events = []
        self.asked = []

    def asks(self, model):
        self.asked.append(model.alias)

    def text(self, text):
        self.events.append(("text", text))

    def reasoning(self, text, signature=b""):
        self.events.append(("reasoning", text))

    def tool_call(self, index, call_id, name, arguments):
        self.events.append(("tool_call", index, call_id, name, arguments))

    def usage(self, usage):
        self.events.append(("usage", usage))

    def keep(self, origin, item):
        self.events.append(("keep", origin, item))

    def flush(self):
        self.events.append(("flush",))

    def of(self, kind):
        return [event[1] for event in self.events if event[0] == kind]

    @property
    def content(self):
        return "".join(self.of("text"))
