/**
 * Every way in which a call or a reply can fail; each name below has {@code Exception} behind it.
 *
 * <pre>
 * Parley                          reason(), code(), message, retryable(), retryAfter(), metadata()
 * ├── InvalidRequest              the request is wrong: fix it
 * │   └── UnsupportedInput, ContextTooLarge, InputTooLarge
 * ├── Unauthenticated, Forbidden
 * ├── NotFound
 * │   └── ConversationNotFound, MessageNotFound, ReplyNotFound, ModelNotFound, ProviderNotFound, ImageNotFound
 * ├── AlreadyExists
 * │   └── RequestIdReused, ConversationExists
 * ├── ReplyInProgress             replyId is the one that runs
 * ├── EtagMismatch                read again, then change
 * ├── LimitExceeded               wait retryAfter
 * │   └── RateLimited, QuotaExceeded, TooManyReaders
 * ├── NotConfigured               the server lacks what the call needs
 * ├── Unavailable                 no answer from a server, though the client tried again
 * │   ├── Draining, Overloaded, StorageUnavailable
 * │   └── ConnectionLost          the reply was accepted, then could not be followed: resume it later
 * ├── DeadlineExceeded            the call's own time limit
 * ├── ReplyFailed                 the reply was accepted, then failed: text is what it had written
 * └── InternalError               a defect of the server; metadata call_id finds it in its logs
 * </pre>
 */
package dev.parley.client.errors;
