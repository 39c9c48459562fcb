package com.example.chat;

import dev.parley.spring.web.Refusal;
import java.time.Duration;
import java.time.Instant;
import org.springframework.security.oauth2.jose.jws.MacAlgorithm;
import org.springframework.security.oauth2.jwt.*;
import org.springframework.web.bind.annotation.*;

/** Gives a token to anybody, with CHAT_DEMO_LOGIN=on. In production, your login makes the tokens. */
@RestController
record DemoLogin(ChatProperties chat, JwtEncoder encoder) {
    record Name(Object name) {}

    record Token(String token, long expiresIn) {}

    private static final Duration LIFETIME = Duration.ofHours(12);

    @PostMapping("/api/login")
    Token login(@RequestBody Name user) {
        if (!chat.demoLogin()) {
            throw Refusal.of(404).exception();
        } else if (!(user.name() instanceof String name) || !name.matches("[A-Za-z0-9_.-]{1,64}")) {
            throw Refusal.of(400, "INVALID_REQUEST", "A name has 1 to 64 letters, digits, _, - or dots.").exception();
        }
        Instant now = Instant.now();
        var claims = JwtClaimsSet.builder().subject(user.name().toString()).issuedAt(now).expiresAt(now.plus(LIFETIME)).build();
        var parameters = JwtEncoderParameters.from(JwsHeader.with(MacAlgorithm.HS256).build(), claims);
        return new Token(encoder.encode(parameters).getTokenValue(), LIFETIME.toSeconds());
    }
}
