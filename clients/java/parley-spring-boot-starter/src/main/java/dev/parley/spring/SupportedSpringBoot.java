package dev.parley.spring;

import org.springframework.boot.SpringBootVersion;
import org.springframework.context.ApplicationContextInitializer;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.core.Ordered;

/** Stops an application with an unsupported version of Spring Boot, before it fails with a missing class. */
final class SupportedSpringBoot implements ApplicationContextInitializer<ConfigurableApplicationContext>, Ordered {
    private final String version;

    /** Called by Spring Boot, which finds this class in META-INF/spring.factories. */
    SupportedSpringBoot() {
        this(SpringBootVersion.getVersion());
    }

    /** The version is null if Spring Boot cannot determine it. */
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
