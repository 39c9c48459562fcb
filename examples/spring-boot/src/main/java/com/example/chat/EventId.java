package com.example.chat;

import dev.parley.client.ParleyClient;
import dev.parley.client.ReplyStream;

/** The id of a server-sent event: a reply and the cursor after the event. */
record EventId(String replyId, int sequence) {
    static EventId of(ReplyStream stream) { return new EventId(stream.replyId(), stream.sequence()); }

    static EventId parse(String id) {
        int colon = id.lastIndexOf(':');
        if (colon < 1) {
            throw new IllegalArgumentException("no event id: " + id);
        }
        return new EventId(id.substring(0, colon), Integer.parseInt(id.substring(colon + 1)));
    }

    ReplyStream resume(ParleyClient client) { return client.resume(replyId, sequence); }

    @Override
    public String toString() { return replyId + ":" + sequence; }
}
