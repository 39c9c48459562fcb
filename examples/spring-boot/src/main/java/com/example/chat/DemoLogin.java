package com.example.chat;

import dev.parley.spring.web.Refusal;
import java.time.Duration;
import java.time.Instant;
import org.springframework.security.oauth2.jose.jws.MacAlgorithm;
import org.springframework.security.oauth2.jwt.JwsHeader;
import org.springframework.security.oauth2.jwt.JwtClaimsSet;
import org.springframework.security.oauth2.jwt.JwtEncoder;
import org.springframework.security.oauth2.jwt.JwtEncoderParameters;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RestController;

/** Gives a token to anybody, with CHAT_DEMO_LOGIN=on. In production, your login makes the tokens. */
@RestController
class DemoLogin {
    record Name(Object name) {}

    record Token(String token, long expiresIn) {}

    private static final Duration LIFETIME = Duration.ofHours(12);

    private final ChatProperties chat;
    private final JwtEncoder encoder;

    DemoLogin(ChatProperties chat, JwtEncoder encoder) {
        this.chat = chat;
        this.encoder = encoder;
    }

    @PostMapping("/api/login")
    Token login(@RequestBody Name user) {
        if (!chat.demoLogin()) {
            throw Refusal.of(404).exception();
        } else if (!(user.name() instanceof String name) || !name.matches("[A-Za-z0-9_.-]{1,64}")) {
            throw Refusal.of(400, "INVALID_REQUEST", "A name has 1 to 64 letters, digits, _, - or dots.").exception();
        }
        Instant now = Instant.now();
        var claims = JwtClaimsSet.builder().subject(user.name().toString()).issuedAt(now).expiresAt(now.plus(LIFETIME)).build();
        var header = JwsHeader.with(MacAlgorithm.HS256).build();
        String token = encoder.encode(JwtEncoderParameters.from(header, claims)).getTokenValue();
        return new Token(token, LIFETIME.toSeconds());
    }
}
