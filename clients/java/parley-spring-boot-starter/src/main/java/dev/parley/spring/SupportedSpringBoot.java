package dev.parley.spring;

import org.springframework.boot.SpringBootVersion;
import org.springframework.context.ApplicationContextInitializer;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.core.Ordered;

/** Stops an application of a Spring Boot that this starter does not run on, before it fails with a missing class. */
final class SupportedSpringBoot implements ApplicationContextInitializer<ConfigurableApplicationContext>, Ordered {
    private final String version;

    /** For Spring Boot itself, which reads of this class in META-INF/spring.factories. */
    SupportedSpringBoot() {
        this(SpringBootVersion.getVersion());
    }

    /** The version may be null, where Spring Boot does not know its own. */
    SupportedSpringBoot(String version) {
        this.version = version;
    }

    @Override
    public int getOrder() { return HIGHEST_PRECEDENCE; }

    @Override
    public void initialize(ConfigurableApplicationContext context) {
        boolean supported = version != null && (version.startsWith("4.") || version.startsWith("3.5."));
        if (!supported && context.getEnvironment().getProperty("parley.enabled", Boolean.class, true)) {
            throw new UnsupportedSpringBootException(version);
        }
    }
}
