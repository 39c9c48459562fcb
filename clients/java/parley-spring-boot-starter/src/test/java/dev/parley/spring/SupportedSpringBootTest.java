package dev.parley.spring;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.springframework.boot.Banner;
import org.springframework.boot.WebApplicationType;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.boot.test.system.CapturedOutput;
import org.springframework.boot.test.system.OutputCaptureExtension;
import org.springframework.context.support.StaticApplicationContext;

/** The versions of Spring Boot that the starter supports. */
@ExtendWith(OutputCaptureExtension.class)
class SupportedSpringBootTest {
    static class Application {}

    private static SpringApplicationBuilder application(String version) {
        return new SpringApplicationBuilder(Application.class)
                .web(WebApplicationType.NONE)
                .bannerMode(Banner.Mode.OFF)
                .initializers(new SupportedSpringBoot(version));
    }

    @ParameterizedTest
    @CsvSource({"4.0.7", "4.1.0-M1", "3.5.0", "3.5.14"})
    void theseAreSupported(String version) {
        new SupportedSpringBoot(version).initialize(new StaticApplicationContext());
    }

    @ParameterizedTest
    @CsvSource({"3.4.13, Spring Boot 3.4.13", "2.7.18, Spring Boot 2.7.18", "5.0.0, Spring Boot 5.0.0", ", an unknown version"})
    void anyOtherStopsTheApplicationWithASentenceThatNamesThem(String version, String named, CapturedOutput output) {
        String sentence =
                "parley-spring-boot-starter runs on Spring Boot 4 and on Spring Boot 3.5; this application has " + named;
        assertThatThrownBy(() -> application(version).run()).hasMessage(sentence);
        assertThat(output).contains("APPLICATION FAILED TO START").contains(sentence + ".").doesNotContain("\tat ");
    }

    @Test
    void aDisabledStarterDoesNotStopTheApplication() {
        application("3.4.13").properties("parley.enabled=false").run().close();
    }
}
