// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** The quota of the period is used up. */
public final class QuotaExceededException extends LimitExceededException {
    public QuotaExceededException(Failure failure) { super(failure); }
}
