package dev.parley.spring;

import org.springframework.boot.diagnostics.AbstractFailureAnalyzer;
import org.springframework.boot.diagnostics.FailureAnalysis;

/** Reports an {@link UnsupportedSpringBootException} without a stack trace. */
final class UnsupportedSpringBootFailureAnalyzer extends AbstractFailureAnalyzer<UnsupportedSpringBootException> {
    @Override
    protected FailureAnalysis analyze(Throwable failure, UnsupportedSpringBootException cause) {
        String action = "Use one of these versions, or parley-client, which needs no Spring, or set parley.enabled=false.";
        return new FailureAnalysis(cause.getMessage() + ".", action, cause);
    }
}
