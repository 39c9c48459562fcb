package dev.parley.client.errors;

/** The server knows no such provider. */
public final class ProviderNotFoundException extends NotFoundException {
    public ProviderNotFoundException(Failure failure) { super(failure); }
}
