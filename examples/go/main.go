// Streams a reply of Parley, cuts the stream, resumes it after the last chunk, and cancels another reply.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	parley "example.com/parley-go/gen/parley/v1"
)

func main() {
	address := flag.String("address", "127.0.0.1:50051", "host and port of Parley")
	text := flag.String("text", "Tell me a story.", "what to ask")
	flag.Parse()
	connection, err := grpc.NewClient(*address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	chat := parley.NewChatClient(connection)
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-end-user", "ada") // the logged-in user
	if err := cutAndResume(ctx, chat, *text); err != nil {
		log.Fatal(err)
	}
	if err := cancel(ctx, chat, *text); err != nil {
		log.Fatal(err)
	}
}

// cutAndResume ends the call after the first piece of text, and reads the rest of the reply by a second call.
func cutAndResume(ctx context.Context, chat parley.ChatClient, text string) error {
	call, cut := context.WithCancel(ctx)
	defer cut()
	// With a request_id, the same request may be sent again: it starts at most one reply.
	request := &parley.ReplyRequest{RequestId: fmt.Sprintf("story-%d", time.Now().UnixNano()), Text: text}
	stream, err := chat.StreamReply(call, request)
	if err != nil {
		return err
	}
	reader := &reader{}
	if err := reader.readFirst(stream); err != nil {
		return err
	}
	cut() // as if the connection was lost; the model continues
	fmt.Printf("\n[cut after chunk %d]\n", reader.sequence)
	stream, err = chat.ResumeReply(ctx, &parley.ResumeReplyRequest{ReplyId: reader.replyID, AfterSequence: reader.sequence})
	if err != nil {
		return err
	}
	return reader.readAll(stream)
}

// cancel stops a reply after its first piece of text. Its stream ends with FINISH_REASON_CANCELLED, and its text is stored.
func cancel(ctx context.Context, chat parley.ChatClient, text string) error {
	stream, err := chat.StreamReply(ctx, &parley.ReplyRequest{Text: text})
	if err != nil {
		return err
	}
	reader := &reader{}
	if err := reader.readFirst(stream); err != nil {
		return err
	}
	target := &parley.CancelRequest_ReplyId{ReplyId: reader.replyID}
	if _, err := chat.Cancel(ctx, &parley.CancelRequest{Target: target, Reason: "user pressed stop"}); err != nil {
		return err
	}
	return reader.readAll(stream)
}

type replyStream = grpc.ServerStreamingClient[parley.TokenChunk]

// reader keeps what is needed to resume: the reply, and the sequence of its last chunk.
type reader struct {
	replyID  string
	sequence int32
}

// readFirst prints up to the first piece of text.
func (r *reader) readFirst(stream replyStream) error {
	for {
		chunk, err := r.next(stream)
		if err != nil || chunk.GetText() != "" {
			return err
		}
	}
}

// readAll prints up to the end.
func (r *reader) readAll(stream replyStream) error {
	for {
		chunk, err := r.next(stream)
		if err != nil || chunk.GetFinished() != nil {
			return err
		}
	}
}

// next prints a chunk. It returns the status of the call if the reply failed, and io.ErrUnexpectedEOF if the stream
// was cut: ResumeReply then continues.
func (r *reader) next(stream replyStream) (*parley.TokenChunk, error) {
	chunk, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	r.sequence = chunk.GetSequence()
	switch event := chunk.GetEvent().(type) { // a chat page also handles Snapshot, which replaces the text so far
	case *parley.TokenChunk_Accepted:
		r.replyID = chunk.GetReplyId()
	case *parley.TokenChunk_Text:
		fmt.Print(event.Text)
	case *parley.TokenChunk_Finished:
		fmt.Printf("\n[%s of reply %s]\n", event.Finished.GetReason(), r.replyID)
	}
	return chunk, nil
}
