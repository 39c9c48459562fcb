package dev.parley.spring;

import dev.parley.client.ParleyClientBuilder;

/** A bean that changes the client before it is built, after the properties; several run in their order. */
@FunctionalInterface
public interface ParleyClientCustomizer {
    void customize(ParleyClientBuilder builder);
}
