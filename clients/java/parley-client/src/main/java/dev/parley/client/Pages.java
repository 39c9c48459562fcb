package dev.parley.client;

import java.util.Objects;
import java.util.function.Function;
import java.util.function.UnaryOperator;
import java.util.stream.Stream;

/** Pages that are fetched as they are taken, each from the cursor that the one before it gave. */
final class Pages {
    private Pages() {}

    /** A page without a cursor after it is the last. */
    static <P, C> Stream<P> stream(Function<C, P> fetch, C first, Function<P, C> cursorAfter) {
        UnaryOperator<Turn<P, C>> next = before -> {
            P page = before.cursor == null ? null : fetch.apply(before.cursor);
            return page == null ? null : new Turn<>(page, cursorAfter.apply(page));
        };
        return Stream.iterate(new Turn<P, C>(null, first), Objects::nonNull, next).skip(1).map(Turn::page);
    }

    private record Turn<P, C>(P page, C cursor) {}
}
