// Generated from protos/parley/v1 by tools/clients. Do not edit: `make gen`.
package dev.parley.client;

import dev.parley.v1.CatalogGrpc;
import dev.parley.v1.ChatGrpc;
import dev.parley.v1.GetQuotaRequest;
import dev.parley.v1.GetReplyRequest;
import dev.parley.v1.ListModelsRequest;
import dev.parley.v1.Model;
import dev.parley.v1.Quota;
import dev.parley.v1.Reply;
import java.util.List;

/** What a client offers beside its streams. */
abstract class Calls {
    final Connection connection;

    Calls(Connection connection) {
        this.connection = connection;
    }

    /** Returns the current state of the reply. */
    public Reply getReply(String replyId) {
        var request = GetReplyRequest.newBuilder()
                .setReplyId(replyId)
                .build();
        return connection.call(ChatGrpc.getGetReplyMethod(), request);
    }

    /** The models that the caller may name. */
    public List<Model> models() {
        var request = ListModelsRequest.getDefaultInstance();
        return connection.call(CatalogGrpc.getListModelsMethod(), request).getModelsList();
    }

    /** The caller's limits and their current use. */
    public List<Quota> quotas() {
        var request = GetQuotaRequest.getDefaultInstance();
        return connection.call(CatalogGrpc.getGetQuotaMethod(), request).getQuotasList();
    }
}
