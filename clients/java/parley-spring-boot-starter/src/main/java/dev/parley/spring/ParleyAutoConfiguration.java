package dev.parley.spring;

import dev.parley.client.Backoff;
import dev.parley.client.ParleyClient;
import dev.parley.client.ParleyClientBuilder;
import io.grpc.ChannelCredentials;
import io.grpc.TlsChannelCredentials;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.boot.autoconfigure.ssl.SslAutoConfiguration;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.boot.ssl.SslBundles;
import org.springframework.boot.ssl.SslManagerBundle;
import org.springframework.context.annotation.Bean;

/** Creates a {@link ParleyClient} bean, unless the application has one, and closes it with the application. */
@AutoConfiguration(after = SslAutoConfiguration.class)
@ConditionalOnProperty(prefix = "parley", name = "enabled", matchIfMissing = true)
@EnableConfigurationProperties(ParleyProperties.class)
public final class ParleyAutoConfiguration {

    /** Creates the client from the properties. */
    @Bean
    @ConditionalOnMissingBean
    ParleyClient parleyClient(
            ParleyProperties properties, ObjectProvider<ParleyClientCustomizer> customizers, ObjectProvider<SslBundles> bundles) {
        ParleyClientBuilder builder = ParleyClient.builder(properties.address())
                .apiKey(properties.apiKey())
                .endUser(properties.endUser())
                .callTimeout(properties.callTimeout())
                .silence(properties.silence())
                .backoff(new Backoff(
                        properties.backoff().first(), properties.backoff().max(), properties.backoff().maxElapsed()));
        if (properties.attemptTimeout() != null) {
            builder.attemptTimeout(properties.attemptTimeout());
        }
        if (properties.tls().isOn()) {
            builder.tls(credentials(properties.tls().bundle(), bundles));
        }
        customizers.orderedStream().forEach(customizer -> customizer.customize(builder));
        ParleyClient client = builder.build();
        client.connect(); // while the application starts: in a new process, a first connection takes seconds on a busy machine
        return client;
    }

    private static ChannelCredentials credentials(String bundle, ObjectProvider<SslBundles> bundles) {
        if (bundle == null) {
            return TlsChannelCredentials.create();
        }
        SslManagerBundle managers = bundles.getObject().getBundle(bundle).getManagers();
        return TlsChannelCredentials.newBuilder()
                .trustManager(managers.getTrustManagers())
                .keyManager(managers.getKeyManagers())
                .build();
    }
}
