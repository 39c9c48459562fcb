package dev.parley.client.testing;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import javax.net.ssl.KeyManager;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.TrustManager;
import javax.net.ssl.TrustManagerFactory;

/** A self-signed certificate for 127.0.0.1, in a key store from the JDK's keytool. */
public record Certificate(Path keyStore, String password) {
    public static Certificate create(Path folder) throws IOException, InterruptedException {
        var certificate = new Certificate(folder.resolve("server.p12"), "changeit");
        Process keytool = new ProcessBuilder(
                        Path.of(System.getProperty("java.home"), "bin", "keytool").toString(), "-genkeypair",
                        "-alias", "server", "-keyalg", "EC", "-dname", "CN=parley", "-ext", "SAN=ip:127.0.0.1",
                        "-storetype", "PKCS12", "-keystore", certificate.keyStore.toString(), "-storepass", certificate.password)
                .redirectErrorStream(true)
                .redirectOutput(folder.resolve("keytool.log").toFile())
                .start();
        if (keytool.waitFor() != 0) {
            throw new IOException(Files.readString(folder.resolve("keytool.log")));
        }
        return certificate;
    }

    public KeyManager[] keyManagers() throws IOException, GeneralSecurityException {
        var factory = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        factory.init(load(), password.toCharArray());
        return factory.getKeyManagers();
    }

    public TrustManager[] trustManagers() throws IOException, GeneralSecurityException {
        KeyStore trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        trusted.setCertificateEntry("server", load().getCertificate("server"));
        var factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        factory.init(trusted);
        return factory.getTrustManagers();
    }

    private KeyStore load() throws IOException, GeneralSecurityException {
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (InputStream file = Files.newInputStream(keyStore)) {
            store.load(file, password.toCharArray());
        }
        return store;
    }
}
