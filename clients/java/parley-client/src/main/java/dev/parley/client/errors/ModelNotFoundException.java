package dev.parley.client.errors;

/** The catalog has no model of this alias. */
public final class ModelNotFoundException extends NotFoundException {
    public ModelNotFoundException(Failure failure) { super(failure); }
}
