package dev.parley.client.errors;

/** The exceptions by reason and by status code. */
final class Exceptions {
    private Exceptions() {}

    /** Returns the exception of the failure's reason, or of its status code if the reason is empty or unknown. */
    static ParleyException of(Failure failure) {
        return switch (failure.reason()) {
            case "INVALID_REQUEST" -> new InvalidRequestException(failure);
            case "UNSUPPORTED_INPUT" -> new UnsupportedInputException(failure);
            case "CONTEXT_TOO_LARGE" -> new ContextTooLargeException(failure);
            case "INPUT_TOO_LARGE" -> new InputTooLargeException(failure);
            case "UNAUTHENTICATED" -> new UnauthenticatedException(failure);
            case "FORBIDDEN" -> new ForbiddenException(failure);
            case "CONVERSATION_NOT_FOUND" -> new ConversationNotFoundException(failure);
            case "MESSAGE_NOT_FOUND" -> new MessageNotFoundException(failure);
            case "REPLY_NOT_FOUND" -> new ReplyNotFoundException(failure);
            case "MODEL_NOT_FOUND" -> new ModelNotFoundException(failure);
            case "PROVIDER_NOT_FOUND" -> new ProviderNotFoundException(failure);
            case "IMAGE_NOT_FOUND" -> new ImageNotFoundException(failure);
            case "REQUEST_ID_REUSED" -> new RequestIdReusedException(failure);
            case "CONVERSATION_EXISTS" -> new ConversationExistsException(failure);
            case "REPLY_IN_PROGRESS" -> new ReplyInProgressException(failure);
            case "ETAG_MISMATCH" -> new EtagMismatchException(failure);
            case "RATE_LIMITED" -> new RateLimitedException(failure);
            case "QUOTA_EXCEEDED" -> new QuotaExceededException(failure);
            case "TOO_MANY_READERS" -> new TooManyReadersException(failure);
            case "NOT_CONFIGURED" -> new NotConfiguredException(failure);
            case "DRAINING" -> new DrainingException(failure);
            case "OVERLOADED" -> new OverloadedException(failure);
            case "STORAGE_UNAVAILABLE" -> new StorageUnavailableException(failure);
            case "IDENTITY_UNAVAILABLE" -> new IdentityUnavailableException(failure);
            case "PROVIDER_UNAVAILABLE",
                    "PROVIDER_RATE_LIMITED",
                    "PROVIDER_TIMEOUT",
                    "PROVIDER_REJECTED",
                    "PROVIDER_UNAUTHENTICATED",
                    "PROVIDER_MALFORMED",
                    "PROVIDER_TRUNCATED",
                    "OWNER_LOST",
                    "PROVIDER_CONTEXT_TOO_LARGE" -> new ReplyFailedException(failure);
            case "INTERNAL" -> new InternalErrorException(failure);
            default -> switch (failure.code()) {
                case INVALID_ARGUMENT -> new InvalidRequestException(failure);
                case UNAUTHENTICATED -> new UnauthenticatedException(failure);
                case PERMISSION_DENIED -> new ForbiddenException(failure);
                case NOT_FOUND -> new NotFoundException(failure);
                case ALREADY_EXISTS -> new AlreadyExistsException(failure);
                case RESOURCE_EXHAUSTED -> new LimitExceededException(failure);
                case FAILED_PRECONDITION -> new NotConfiguredException(failure);
                case UNAVAILABLE, CANCELLED -> new UnavailableException(failure);
                case DEADLINE_EXCEEDED -> new DeadlineExceededException(failure);
                // Without a reason they are those of a broken link; a newer server's have a reason.
                case INTERNAL -> failure.reason().isEmpty()
                        ? new UnavailableException(failure) : new InternalErrorException(failure);
                case UNKNOWN -> failure.reason().isEmpty()
                        ? new UnavailableException(failure) : new ParleyException(failure);
                default -> new ParleyException(failure);
            };
        };
    }
}
