package dev.parley.client.errors;

/** The server has no such provider. */
public final class ProviderNotFoundException extends NotFoundException {
    public ProviderNotFoundException(Failure failure) { super(failure); }
}
