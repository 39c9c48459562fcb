package dev.parley.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import dev.parley.client.testing.ScriptedServer;
import dev.parley.v1.DeleteProviderKeyRequest;
import dev.parley.v1.DeleteProviderKeyResponse;
import dev.parley.v1.GetStatusRequest;
import dev.parley.v1.GetStatusResponse;
import dev.parley.v1.ListProviderKeysRequest;
import dev.parley.v1.ListProviderKeysResponse;
import dev.parley.v1.ListUsageRequest;
import dev.parley.v1.ListUsageRequest.GroupBy;
import dev.parley.v1.ListUsageResponse;
import dev.parley.v1.ProviderKey;
import dev.parley.v1.SetProviderKeyRequest;
import dev.parley.v1.UsageRow;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** The calls of the Admin service: requests and pages. */
class AdminTest {
    private final ScriptedServer server = new ScriptedServer();
    private final ParleyClient client = ParleyClient.builder(server.address()).apiKey("admin").build();

    @AfterEach
    void stop() {
        client.close();
        server.close();
    }

    private List<?> requests() { return server.calls.stream().map(call -> call.request).toList(); }

    @Test
    void providerKeysAreStoredListedOverAllPagesAndDeleted() {
        ProviderKey first = ProviderKey.newBuilder().setProvider("a").setHint("wxyz").build();
        ProviderKey second = ProviderKey.newBuilder().setProvider("b").build();
        server.answer("SetProviderKey", first);
        server.answer(
                "ListProviderKeys",
                ListProviderKeysResponse.newBuilder().addKeys(first).setNextPageToken("more").build(),
                ListProviderKeysResponse.newBuilder().addKeys(second).build());
        server.answer("DeleteProviderKey", DeleteProviderKeyResponse.getDefaultInstance());
        assertEquals(first, client.admin().setProviderKey("a", "a-key-wxyz"));
        assertEquals(List.of(first, second), client.admin().providerKeys().toList());
        client.admin().deleteProviderKey("a", "shop");
        assertEquals(
                List.of(
                        SetProviderKeyRequest.newBuilder().setProvider("a").setApiKey("a-key-wxyz").build(),
                        ListProviderKeysRequest.getDefaultInstance(),
                        ListProviderKeysRequest.newBuilder().setPageToken("more").build(),
                        DeleteProviderKeyRequest.newBuilder().setProvider("a").setTenant("shop").build()),
                requests());
    }

    @Test
    void usageIsReadFromAllPagesWithTheSameFilters() {
        UsageRow first = UsageRow.newBuilder().setModel("fast").setReplies(1).build();
        UsageRow second = UsageRow.newBuilder().setModel("cheap").setReplies(2).build();
        server.answer(
                "ListUsage",
                ListUsageResponse.newBuilder().addRows(first).setNextPageToken("more").build(),
                ListUsageResponse.newBuilder().addRows(second).build());
        var request = ListUsageRequest.newBuilder().addGroupBy(GroupBy.GROUP_BY_MODEL).setEndUser("ada").build();
        assertEquals(List.of(first, second), client.admin().usage(request).toList());
        assertEquals(List.of(request, request.toBuilder().setPageToken("more").build()), requests());
    }

    @Test
    void theStatusIsRead() {
        var status = GetStatusResponse.newBuilder().addProblems("no replica holds a lease").build();
        server.answer("GetStatus", status);
        assertEquals(status, client.admin().status());
        assertEquals(List.of(GetStatusRequest.getDefaultInstance()), requests());
    }
}
