package dev.parley.client;

import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.Spliterator;
import java.util.Spliterators;
import java.util.function.Function;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/** Pages that are fetched as they are taken, each from the cursor that the one before it gave. */
final class Pages<P, C> implements Iterator<P> {
    private final Function<C, P> fetch;
    private final Function<P, C> cursorAfter;
    private C cursor;
    private boolean over;

    private Pages(Function<C, P> fetch, Function<P, C> cursorAfter) {
        this.fetch = fetch;
        this.cursorAfter = cursorAfter;
    }

    /** The first page is fetched with a cursor of null; a page without a cursor after it is the last. */
    static <P, C> Stream<P> stream(Function<C, P> fetch, Function<P, C> cursorAfter) {
        var pages = new Pages<>(fetch, cursorAfter);
        return StreamSupport.stream(Spliterators.spliteratorUnknownSize(pages, Spliterator.ORDERED), false);
    }

    @Override
    public boolean hasNext() { return !over; }

    @Override
    public P next() {
        if (over) {
            throw new NoSuchElementException();
        }
        P page = fetch.apply(cursor);
        cursor = cursorAfter.apply(page);
        over = cursor == null;
        return page;
    }
}
