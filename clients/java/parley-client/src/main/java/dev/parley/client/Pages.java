package dev.parley.client;

import java.util.Objects;
import java.util.function.Function;
import java.util.function.UnaryOperator;
import java.util.stream.Stream;

/** Lazy streams of pages. */
final class Pages {
    private Pages() {}

    /**
     * Fetches each page when it is needed, from the cursor of the page before it.
     *
     * @param cursorAfter returns null after the last page
     */
    static <P, C> Stream<P> stream(Function<C, P> fetch, C first, Function<P, C> cursorAfter) {
        UnaryOperator<Step<P, C>> next = before -> {
            P page = before.cursor == null ? null : fetch.apply(before.cursor);
            return page == null ? null : new Step<>(page, cursorAfter.apply(page));
        };
        return Stream.iterate(new Step<P, C>(null, first), Objects::nonNull, next).skip(1).map(Step::page);
    }

    private record Step<P, C>(P page, C cursor) {}
}
