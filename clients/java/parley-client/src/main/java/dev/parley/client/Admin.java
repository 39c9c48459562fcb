package dev.parley.client;

import dev.parley.v1.AdminGrpc;
import dev.parley.v1.DeleteProviderKeyRequest;
import dev.parley.v1.GetStatusRequest;
import dev.parley.v1.GetStatusResponse;
import dev.parley.v1.ListProviderKeysRequest;
import dev.parley.v1.ListProviderKeysResponse;
import dev.parley.v1.ListUsageRequest;
import dev.parley.v1.ListUsageResponse;
import dev.parley.v1.ProviderKey;
import dev.parley.v1.SetProviderKeyRequest;
import dev.parley.v1.UsageRow;
import java.util.stream.Stream;

/**
 * Provider keys, usage and status, for operators. The calls need a credential with the role admin, except
 * {@link #usage} of the caller's own tenant or end user.
 */
public final class Admin {
    private final Connection connection;

    Admin(Connection connection) {
        this.connection = connection;
    }

    /** As {@link #setProviderKey(SetProviderKeyRequest)}, for all tenants without their own, and not verified. */
    public ProviderKey setProviderKey(String provider, String apiKey) {
        return setProviderKey(SetProviderKeyRequest.newBuilder().setProvider(provider).setApiKey(apiKey).build());
    }

    /**
     * Stores the key of a provider, encrypted, for a tenant, or for all tenants without their own. With {@code verify},
     * the server tests it with the provider first. No call returns the key: the result has its last characters.
     */
    public ProviderKey setProviderKey(SetProviderKeyRequest request) {
        return connection.call(AdminGrpc.getSetProviderKeyMethod(), request);
    }

    /** Returns all stored keys, each with its last characters only. Pages are fetched as they are needed. */
    public Stream<ProviderKey> providerKeys() {
        var pages = Pages.<ListProviderKeysResponse, String>stream(
                token -> connection.call(
                        AdminGrpc.getListProviderKeysMethod(),
                        ListProviderKeysRequest.newBuilder().setPageToken(token).build()),
                "",
                page -> page.getNextPageToken().isEmpty() ? null : page.getNextPageToken());
        return pages.flatMap(page -> page.getKeysList().stream());
    }

    /** As {@link #deleteProviderKey(String, String)}, for the key of all tenants without their own. */
    public void deleteProviderKey(String provider) {
        deleteProviderKey(provider, "");
    }

    /** Deletes the key of a provider for a tenant, or with an empty tenant the one for all. */
    public void deleteProviderKey(String provider, String tenant) {
        var request = DeleteProviderKeyRequest.newBuilder().setProvider(provider).setTenant(tenant).build();
        connection.call(AdminGrpc.getDeleteProviderKeyMethod(), request);
    }

    /**
     * Returns sums of tokens, cost and outcomes of the replies that were accepted in the time of the request, one row for
     * each group. Pages are fetched as they are needed.
     */
    public Stream<UsageRow> usage(ListUsageRequest request) {
        var pages = Pages.<ListUsageResponse, String>stream(
                token -> connection.call(AdminGrpc.getListUsageMethod(), request.toBuilder().setPageToken(token).build()),
                request.getPageToken(),
                page -> page.getNextPageToken().isEmpty() ? null : page.getNextPageToken());
        return pages.flatMap(page -> page.getRowsList().stream());
    }

    /** Returns the state of the replica that answers, and what the database shows of all replicas. */
    public GetStatusResponse status() {
        return connection.call(AdminGrpc.getGetStatusMethod(), GetStatusRequest.getDefaultInstance());
    }
}
