package dev.parley.spring;

import dev.parley.client.ParleyClientBuilder;

/** A bean that changes the client after the properties, before it is built. Several beans run in their order. */
@FunctionalInterface
public interface ParleyClientCustomizer {
    void customize(ParleyClientBuilder builder);
}
