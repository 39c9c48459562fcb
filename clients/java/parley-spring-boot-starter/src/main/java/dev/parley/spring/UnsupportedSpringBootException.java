package dev.parley.spring;

/** The starter does not support the application's version of Spring Boot. */
final class UnsupportedSpringBootException extends IllegalStateException {
    private static final long serialVersionUID = 1;

    UnsupportedSpringBootException(String version) {
        super("parley-spring-boot-starter runs on Spring Boot 4 and on Spring Boot 3.5; this application has "
                + (version == null ? "an unknown version" : "Spring Boot " + version));
    }
}
