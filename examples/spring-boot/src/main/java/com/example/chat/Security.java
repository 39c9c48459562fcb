package com.example.chat;

import com.nimbusds.jose.jwk.source.ImmutableSecret;
import dev.parley.spring.web.Refusal;
import jakarta.servlet.DispatcherType;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Objects;
import javax.crypto.SecretKey;
import javax.crypto.spec.SecretKeySpec;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.security.config.Customizer;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.config.http.SessionCreationPolicy;
import org.springframework.security.oauth2.core.DelegatingOAuth2TokenValidator;
import org.springframework.security.oauth2.jose.jws.MacAlgorithm;
import org.springframework.security.oauth2.jwt.*;
import org.springframework.security.web.AuthenticationEntryPoint;
import org.springframework.security.web.SecurityFilterChain;
import org.springframework.web.servlet.HandlerExceptionResolver;

/** Each user has a token (JWT, HS256) of the product; its subject is the end user of Parley. */
@Configuration
class Security {
    private static final int KEY_BYTES = 32;
    /** Parley takes these as an end user. */
    private static final String SUBJECT = "[!-~]{1,128}";

    @Bean
    SecurityFilterChain chain(HttpSecurity http, HandlerExceptionResolver handlerExceptionResolver) throws Exception {
        AuthenticationEntryPoint refuse = (request, response, failure) ->
                handlerExceptionResolver.resolveException(request, response, null, Refusal.of(401).exception());
        return http
                .csrf(csrf -> csrf.disable()) // a browser does not add a token by itself, as it adds cookies
                .sessionManagement(session -> session.sessionCreationPolicy(SessionCreationPolicy.STATELESS))
                .authorizeHttpRequests(requests -> requests
                        .dispatcherTypeMatchers(DispatcherType.ASYNC, DispatcherType.ERROR).permitAll()
                        .requestMatchers("/api/page/config", "/api/login").permitAll()
                        .requestMatchers("/api/**").authenticated()
                        .anyRequest().permitAll())
                .exceptionHandling(errors -> errors.authenticationEntryPoint(refuse))
                .oauth2ResourceServer(server -> server.authenticationEntryPoint(refuse).jwt(Customizer.withDefaults()))
                .build();
    }

    @Bean
    SecretKey jwtKey(ChatProperties chat) {
        byte[] key = chat.jwtKey().getBytes(StandardCharsets.UTF_8);
        if (key.length < KEY_BYTES) {
            throw new IllegalStateException("CHAT_JWT_KEY must have at least " + KEY_BYTES + " bytes");
        }
        return new SecretKeySpec(key, "HmacSHA256");
    }

    @Bean
    JwtDecoder jwtDecoder(SecretKey key) {
        NimbusJwtDecoder decoder = NimbusJwtDecoder.withSecretKey(key).macAlgorithm(MacAlgorithm.HS256).build();
        decoder.setJwtValidator(new DelegatingOAuth2TokenValidator<>(
                new JwtTimestampValidator(Duration.ZERO),
                new JwtClaimValidator<>("exp", Objects::nonNull),
                new JwtClaimValidator<String>("sub", sub -> sub != null && sub.matches(SUBJECT))));
        return decoder;
    }

    @Bean
    JwtEncoder jwtEncoder(SecretKey key) { return new NimbusJwtEncoder(new ImmutableSecret<>(key)); }
}
