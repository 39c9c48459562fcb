package dev.parley.client.errors;

/** The request breaks the contract. */
public class InvalidRequestException extends ParleyException {
    public InvalidRequestException(Failure failure) { super(failure); }
}
