"""Models whose providers play steps, and a route over them on a manual clock."""

import asyncio

from parley_server.core.model import Model, Prompt
from parley_server.errors import Failure, InvalidRequest, ProviderContextTooLarge, ProviderError
from parley_server.providers.policies.breaker import Breaker, CoolDowns
from parley_server.providers.policies.retry import RetryBudget
from parley_server.providers.policies.route import ModelRoute

from tests.clock import ManualClock
from tests.fakes import STOP, CallbackProvider, FixedPrompt, candidate
from tests.unit.providers.moving import Recorder

NEVER = "never"


def failing(failure, **fields):
    """The error of a provider that fails in this way."""
    error = (ProviderContextTooLarge if failure is Failure.TOO_LONG else ProviderError)("it failed")
    for name, value in ({"failure": failure} | fields).items():
        setattr(error, name, value)
    return error


class Prompts(FixedPrompt):
    """Records which prompts were built: (alias, with kept items). `shorter` says how often they can be shortened."""

    def __init__(self, tenant="shop", shorter=0, refused=()):
        super().__init__(Prompt(model=Model(alias="", provider="", name=""), messages=(), tenant=tenant))
        self.built = []
        self.shorter = shorter
        self.refused = refused
        self.limits = []

    def of(self, model, *, with_kept=True):
        self.built.append((model.alias, with_kept))
        if model.alias in self.refused:
            raise InvalidRequest("it takes no images")
        return super().of(model)

    def refused_as_too_long(self, model, *, limit_tokens, prompt_tokens):
        self.limits.append((model.alias, limit_tokens, prompt_tokens))
        self.shorter -= 1
        return self.shorter >= 0


class Events:
    """An observer that writes down its events."""

    def __init__(self):
        self.attempts, self.retries, self.failovers, self.breakers = [], [], [], []

    def provider_attempt(self, attempt):
        self.attempts.append((attempt.model.provider, attempt.outcome))

    def provider_retried(self, provider, reason):
        self.retries.append((provider, reason))

    def failed_over(self, source, target, reason):
        self.failovers.append((source, target, reason))

    def breaker_changed(self, provider, model, *, is_open):
        self.breakers.append((provider, model, is_open))


class Models:
    """The models `a`, `b`, ...: each plays its steps, one a request, the last one for ever. A step is an error to
    raise, a text to answer, `NEVER`, or a coroutine function of the sink. The models share providers' memory across
    replies."""

    def __init__(self, *plays, jitter=0.5, contexts=(), **rules):
        self.clock = ManualClock()
        self.calls = []
        self.events = Events()
        cool_downs = CoolDowns(self.clock)
        self.candidates = []
        for number, (alias, steps) in enumerate(zip("abc", plays, strict=False)):
            model = Model(
                alias=alias,
                provider=f"provider-{alias}",
                name=f"name-{alias}",
                context_tokens=contexts[number] if contexts else 0,
            )
            usual = {
                "first_token_s": 30.0,
                "idle_s": 60.0,
                "retries": 3,
                "breaker": Breaker(self.clock),
                "budget": RetryBudget(),
                "cool_downs": cool_downs,
                "fingerprint": lambda tenant: tenant,
            }
            provider = CallbackProvider(self._answering(alias, list(steps)))
            self.candidates.append(candidate(model, provider, self.clock, **(usual | rules)))
        self.route = ModelRoute(tuple(self.candidates), clock=self.clock, observer=self.events, jitter=lambda: jitter)

    @property
    def asked(self):
        """The aliases of the requests so far."""
        return "".join(alias for alias, _ in self.calls)

    @property
    def times(self):
        """When each request came, in seconds from the start."""
        return [at for _, at in self.calls]

    def ask(self, prompts=None, sink=None):
        """A reply of these models, as a task."""
        return asyncio.ensure_future(self.route.generate(prompts or Prompts(), sink or Recorder()))

    async def answer(self, prompts=None, sink=None, *, within_s=200.0):
        """The result of a reply, or its error."""
        task = self.ask(prompts, sink)
        end_s = self.clock.monotonic() + within_s
        await self.clock.advance(0)
        while not task.done() and self.clock.monotonic() < end_s:
            await self.clock.advance(min(0.25, end_s - self.clock.monotonic()))
        in_time = task.done() or not task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        assert in_time, f"no result within {within_s} s"
        return result

    def _answering(self, alias, steps):
        async def answer(prompt, sink):
            self.calls.append((alias, self.clock.monotonic() - 1000.0))
            step = steps.pop(0) if len(steps) > 1 else steps[0]
            if isinstance(step, Exception):
                raise step
            if step is NEVER:
                await asyncio.get_running_loop().create_future()
            if callable(step):
                return await step(sink)
            sink.text(step)
            sink.flush()
            return STOP

        return answer
