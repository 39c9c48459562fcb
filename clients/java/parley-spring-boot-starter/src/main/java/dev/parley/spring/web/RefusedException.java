package dev.parley.spring.web;

/** A request that the application refuses; {@link RefusalAdvice} answers it. Made by {@link Refusal#exception}. */
public final class RefusedException extends RuntimeException {
    private static final long serialVersionUID = 1;

    private final transient Refusal refusal;

    RefusedException(Refusal refusal) {
        super(refusal.code() + ": " + refusal.message());
        this.refusal = refusal;
    }

    public Refusal refusal() { return refusal; }
}
