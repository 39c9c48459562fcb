package dev.parley.client;

import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * The daemon threads of one client: one for timers, one per core for the callbacks of all its streams, and those for
 * credentials. Idle ones end, except the timers'.
 */
final class Threads {
    private static final long IDLE_S = 30;
    private static final int CREDENTIAL_THREADS = 8;

    final ScheduledThreadPoolExecutor timers = new ScheduledThreadPoolExecutor(1, daemons("parley-timer-"));
    final Executor callbacks;
    /** The threads for the application's function for credentials, which may block. */
    final ExecutorService credentials;
    private final ThreadPoolExecutor own;

    /** Callbacks run on the given executor, which the owner shuts down; if it is null, on threads of the client. */
    Threads(Executor given) {
        timers.setRemoveOnCancelPolicy(true);
        timers.setRejectedExecutionHandler(new ThreadPoolExecutor.DiscardPolicy()); // once the client is closed
        own = pool(Math.max(2, Runtime.getRuntime().availableProcessors()), "parley-callback-");
        credentials = pool(CREDENTIAL_THREADS, "parley-credential-");
        callbacks = given == null ? own : given;
    }

    /** Stops the timers and the threads; running callbacks continue to their end. */
    void close() {
        timers.shutdownNow();
        credentials.shutdownNow();
        own.shutdown();
    }

    private static ThreadPoolExecutor pool(int count, String prefix) {
        var tasks = new LinkedBlockingQueue<Runnable>();
        var pool = new ThreadPoolExecutor(count, count, IDLE_S, TimeUnit.SECONDS, tasks, daemons(prefix));
        pool.allowCoreThreadTimeOut(true);
        return pool;
    }

    private static ThreadFactory daemons(String prefix) {
        AtomicInteger count = new AtomicInteger();
        return task -> {
            Thread thread = new Thread(task, prefix + count.incrementAndGet());
            thread.setDaemon(true);
            return thread;
        };
    }
}
