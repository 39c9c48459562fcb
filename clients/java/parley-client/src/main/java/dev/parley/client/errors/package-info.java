/**
 * The exceptions of the client, one per kind of failure. Each name below ends in {@code Exception}.
 *
 * <pre>
 * Parley                          reason(), code(), message, retryable(), retryAfter(), metadata()
 * ├── InvalidRequest              the request is wrong; correct it before sending it again
 * │   └── UnsupportedInput, ContextTooLarge, InputTooLarge
 * ├── Unauthenticated, Forbidden
 * ├── CredentialFailed            the application's function for the credential failed; nothing was sent
 * ├── NotFound
 * │   └── ConversationNotFound, MessageNotFound, ReplyNotFound, ModelNotFound, ProviderNotFound, ImageNotFound
 * ├── AlreadyExists
 * │   └── RequestIdReused, ConversationExists
 * ├── ReplyInProgress             replyId is the running reply
 * ├── EtagMismatch                read the resource again, then update it
 * ├── LimitExceeded               limit() is reached; retryAfter is the wait
 * │   └── RateLimited, QuotaExceeded, TooManyReaders
 * ├── NotConfigured               the server lacks a setting that the call needs
 * ├── Unavailable                 no answer from a server after all retries
 * │   ├── Draining, Overloaded, StorageUnavailable, IdentityUnavailable
 * │   └── ConnectionLost          the stream of an accepted reply was lost; resume it later
 * ├── DeadlineExceeded            the call's time limit has passed
 * ├── ReplyFailed                 the reply was accepted, then failed; text is its partial text
 * └── InternalError               a defect of the server; metadata call_id is in its log lines
 * </pre>
 */
package dev.parley.client.errors;
