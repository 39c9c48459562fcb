package dev.parley.client;

import java.util.Spliterator;
import java.util.Spliterators.AbstractSpliterator;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/** Pages that are fetched as they are taken, each from the cursor that the one before it gave. */
final class Pages {
    private Pages() {}

    /** A page without a cursor after it is the last. */
    static <P, C> Stream<P> stream(Function<C, P> fetch, C first, Function<P, C> cursorAfter) {
        var pages = new AbstractSpliterator<P>(Long.MAX_VALUE, Spliterator.ORDERED) {
            private C cursor = first;

            @Override
            public boolean tryAdvance(Consumer<? super P> taker) {
                if (cursor == null) {
                    return false;
                }
                P page = fetch.apply(cursor);
                cursor = cursorAfter.apply(page);
                taker.accept(page);
                return true;
            }
        };
        return StreamSupport.stream(pages, false);
    }
}
