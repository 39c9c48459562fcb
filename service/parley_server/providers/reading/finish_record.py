"""Records the finish reason of an answer, and decides what the events after it mean."""

from __future__ import annotations

from collections.abc import Callable

from parley_server.errors import ProviderError
from parley_server.providers.reading.content import Content, Notice
from parley_server.providers.reading.events import failure_of, word_of


class FinishRecord:
    """The finish reason (`word`, empty before it) and what followed it.

    An error after the finish reason does not fail the answer, which is complete. But content after it makes it
    `unreliable`; then only the end of the stream completes the answer, and an error that was ignored fails it.

    `on_finish` is called once, with the time of the last content; `on_resume` when content follows; and `notice` with
    "after_finish" for the first error that is ignored.
    """

    def __init__(
        self,
        provider: str,
        content: Content,
        *,
        on_finish: Callable[[float | None], None],
        on_resume: Callable[[], None],
        notice: Notice,
    ) -> None:
        self.word = ""
        self.unreliable = False
        self._provider = provider
        self._content = content
        self._on_finish = on_finish
        self._on_resume = on_resume
        self._notice = notice
        self._ignored: ProviderError | None = None
        self._reported = False

    @property
    def reliable(self) -> bool:
        """Whether there is a finish reason, and no content has followed it."""
        return bool(self.word) and not self.unreliable

    def take(self, value: object) -> None:
        """Take the finish reason in a field of any type. Raises a `ProviderError` if it reports a failure."""
        word = word_of(value)
        if not word:
            return
        failure = failure_of(word)
        if failure is not None:
            error = failure(f"{self._provider} ended its answer with an error")
            error.billed = True
            raise error
        self.word = word

    def take_late(self, take: Callable[[], None]) -> None:
        """Call `take`, which takes one event after the finish reason. Raises its `ProviderError` if the finish reason
        is unreliable."""
        content = self._content
        content.push_text()
        before = content.irregular_pieces
        try:
            take()
        except ProviderError as error:
            if self.unreliable:
                raise
            self.ignore(error)
        if not self.unreliable and (content.irregular_pieces != before or any(content.texts)):
            self.unreliable = True
            self._on_resume()
            if self._ignored is not None:
                raise self._ignored

    def ignore(self, error: ProviderError) -> None:
        """Ignore an error after the finish reason."""
        if self._ignored is None:
            self._ignored = error
            self._notice("after_finish")

    def report(self) -> None:
        """Report the finish reason, if there is one, once."""
        if self.word and not self._reported:
            self._reported = True
            if not self.unreliable:
                self._on_finish(self._content.last_s)
