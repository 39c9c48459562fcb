'use strict';
/*
 * An OpenAI chat-completions upstream that is fast enough never to be the limit. The model's name defines the reply:
 * "t<tokens>-p<pace in ms>"; with pace 0, all tokens are written at once. In "t<tokens>-p<pace in ms>-f<ms>", the last
 * number delays the headers and the first token. It needs no package.
 *
 * Each token has 9 characters: a space, its number in base 36 (2 digits), and the time of its write in microseconds of
 * CLOCK_MONOTONIC, modulo 36^6, in base 36 (6 digits; zeros with pace 0). GET /stats returns counters, and
 * POST /stats/reset sets them to 0. The port is printed on stdout as JSON; the process ends when its stdin closes.
 */
const net = require('node:net');

const STAMP_SPAN = 36 ** 6;
const NUMBER_SPAN = 36 ** 2;
const WHEEL_SLOTS = 16384; // of one millisecond
const LAG_BUCKETS = 2000; // of one millisecond
const PIECE_BYTES = 16384;
const CREATED = Math.floor(Date.now() / 1000);
const NUMBERS = Array.from({ length: NUMBER_SPAN }, (_, n) => n.toString(36).padStart(2, '0'));

const HEAD =
  'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n' +
  'x-request-id: req_benchmark\r\nopenai-processing-ms: 1\r\ntransfer-encoding: chunked\r\n\r\n';

function nowUs() {
  const [seconds, nanoseconds] = process.hrtime(); // CLOCK_MONOTONIC, as Python's time.monotonic_ns()
  return seconds * 1e6 + Math.floor(nanoseconds / 1000);
}

function framed(text) {
  return Buffer.byteLength(text, 'latin1').toString(16) + '\r\n' + text + '\r\n';
}

/** The events of one reply; everything except the tokens is created once. */
class Script {
  constructor(id, model, tokens, includeUsage) {
    const common =
      `data: {"id":"chatcmpl-${id}","object":"chat.completion.chunk","created":${CREATED},"model":"${model}",` +
      '"service_tier":"default","system_fingerprint":"fp_560af6e559","choices":';
    const usage = includeUsage ? ',"usage":null' : '';
    const choice = (delta, finish) =>
      `${common}[{"index":0,"delta":${delta},"logprobs":null,"finish_reason":${finish}}]${usage}}\n\n`;
    const [before, after] = choice('{"content":"@"}', 'null').split('@');
    this.role = choice('{"role":"assistant","content":"","refusal":null}', 'null');
    this.before = before;
    this.after = after;
    this.framedBefore = (before.length + 9 + after.length).toString(16) + '\r\n' + before;
    this.framedAfter = after + '\r\n';
    const counts =
      `{"prompt_tokens":24,"completion_tokens":${tokens},"total_tokens":${tokens + 24},` +
      '"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},' +
      '"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,' +
      '"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}';
    this.end =
      choice('{}', '"stop"') + (includeUsage ? `${common}[],"usage":${counts}}\n\n` : '') + 'data: [DONE]\n\n';
    this.framedEnd = framed(this.end) + '0\r\n\r\n';
  }

  /** Headers and body of a reply with pace 0, as whole events in HTTP chunks of about PIECE_BYTES. */
  whole(tokens) {
    const frames = [HEAD];
    let piece = this.role;
    for (let n = 0; n < tokens; n += 1) {
      piece += this.before + ' ' + NUMBERS[n % NUMBER_SPAN] + '000000' + this.after;
      if (piece.length < PIECE_BYTES) continue;
      frames.push(framed(piece));
      piece = '';
    }
    frames.push(framed(piece + this.end), '0\r\n\r\n');
    return Buffer.from(frames.join(''), 'latin1');
  }
}

const stats = {};
const lag = new Uint32Array(LAG_BUCKETS);

function resetStats() {
  Object.assign(stats, { requests: 0, aborted: 0, refused: 0 });
  lag.fill(0);
}

/** The delay of the upstream's own schedule in milliseconds, p99.9 of the paced tokens. */
function lagP999() {
  const total = lag.reduce((sum, count) => sum + count, 0);
  let seen = 0;
  for (let ms = 0; ms < LAG_BUCKETS; ms += 1) {
    seen += lag[ms];
    if (total > 0 && seen >= total * 0.999) return ms;
  }
  return 0;
}

/** One timer for all paced streams: each slot of one millisecond has the streams that write in it. */
class Wheel {
  constructor() {
    this.slots = Array.from({ length: WHEEL_SLOTS }, () => []);
    this.streams = 0;
    this.timer = null;
    this.cursor = 0;
  }

  add(stream) {
    this.streams += 1;
    if (this.timer === null) {
      this.cursor = Math.floor(nowUs() / 1000);
      this.timer = setInterval(() => this.turn(), 1);
    }
    this.put(stream);
  }

  put(stream) {
    const due = Math.max(Math.ceil(stream.dueUs / 1000), this.cursor);
    this.slots[due % WHEEL_SLOTS].push(stream);
  }

  turn() {
    const now = Math.floor(nowUs() / 1000);
    for (; this.cursor <= now; this.cursor += 1) {
      const slot = this.slots[this.cursor % WHEEL_SLOTS];
      if (slot.length === 0) continue;
      this.slots[this.cursor % WHEEL_SLOTS] = [];
      for (const stream of slot) {
        if (stream.step()) this.put(stream);
        else this.streams -= 1;
      }
    }
    if (this.streams > 0) return;
    clearInterval(this.timer);
    this.timer = null;
  }
}

const wheel = new Wheel();

/** A reply with one socket write per token, on an absolute schedule. */
class PacedStream {
  constructor(connection, script, tokens, paceMs) {
    Object.assign(this, { connection, script, tokens, paceUs: paceMs * 1000, written: 0 });
    this.dueUs = nowUs();
    this.gone = false;
    if (this.step(HEAD + framed(script.role))) wheel.add(this);
  }

  step(head = '') {
    if (this.gone) return false;
    const now = nowUs();
    lag[Math.min(Math.floor((now - this.dueUs) / 1000), LAG_BUCKETS - 1)] += 1;
    const token = ' ' + NUMBERS[this.written % NUMBER_SPAN] + (now % STAMP_SPAN).toString(36).padStart(6, '0');
    this.written += 1;
    const last = this.written === this.tokens;
    this.connection.socket.write(
      head + this.script.framedBefore + token + this.script.framedAfter + (last ? this.script.framedEnd : ''),
      'latin1',
    );
    this.dueUs += this.paceUs;
    if (last) this.connection.finished();
    return !last;
  }
}

const wholes = new Map();
let serial = 0;

function wholeReply(model, tokens, includeUsage) {
  const key = `${model} ${includeUsage}`;
  if (!wholes.has(key)) wholes.set(key, new Script('whole'.padEnd(29, '0'), model, tokens, includeUsage).whole(tokens));
  return wholes.get(key);
}

/** One HTTP/1.1 connection that is kept alive, with successive requests whose bodies have a content-length. */
class Connection {
  constructor(socket) {
    this.socket = socket;
    this.pending = Buffer.alloc(0);
    this.stream = null;
    this.busy = false;
    socket.setNoDelay(true);
    socket.on('data', (bytes) => this.take(bytes));
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.closed());
  }

  take(bytes) {
    this.pending = this.pending.length === 0 ? bytes : Buffer.concat([this.pending, bytes]);
    this.next();
  }

  next() {
    if (this.busy) return;
    const headEnd = this.pending.indexOf('\r\n\r\n');
    if (headEnd < 0) return;
    const head = this.pending.toString('latin1', 0, headEnd);
    const length = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
    if (this.pending.length < headEnd + 4 + length) return;
    const body = this.pending.toString('utf8', headEnd + 4, headEnd + 4 + length);
    this.pending = this.pending.subarray(headEnd + 4 + length);
    this.route(head.slice(0, head.indexOf(' HTTP/')), body);
  }

  route(target, body) {
    if (target === 'GET /stats') {
      this.json(200, { ...stats, lag_p999_ms: lagP999() });
    } else if (target === 'POST /stats/reset') {
      resetStats();
      this.json(200, {});
    } else if (target === 'POST /v1/chat/completions') {
      this.complete(body);
    } else {
      this.refuse(404, 'not_found');
    }
  }

  complete(body) {
    let request;
    try {
      request = JSON.parse(body);
    } catch {
      return this.refuse(400, 'invalid_json');
    }
    const shape = /^t(\d+)-p(\d+)(?:-f(\d+))?$/.exec(request.model);
    if (shape === null) return this.refuse(404, 'model_not_found');
    const [tokens, paceMs, firstMs] = [Number(shape[1]), Number(shape[2]), Number(shape[3] ?? 0)];
    if (request.stream !== true || tokens < 1 || paceMs >= WHEEL_SLOTS / 2) return this.refuse(400, 'unsupported');
    const reply = { tokens, paceMs, includeUsage: request.stream_options?.include_usage === true };
    stats.requests += 1;
    this.busy = true;
    if (firstMs > 0) setTimeout(() => this.begin(request.model, reply), firstMs);
    else this.begin(request.model, reply);
  }

  begin(model, { tokens, paceMs, includeUsage }) {
    if (!this.busy) return; // the client has disconnected
    if (paceMs > 0) {
      serial += 1;
      const script = new Script(serial.toString(36).padStart(29, 'B'), model, tokens, includeUsage);
      this.stream = new PacedStream(this, script, tokens, paceMs);
      if (!this.busy) this.stream = null; // a single token: it has finished already
      return;
    }
    this.socket.write(wholeReply(model, tokens, includeUsage), (error) => {
      if (!error) this.finished();
    });
  }

  finished() {
    if (!this.busy) return;
    this.busy = false;
    this.stream = null;
    this.next();
  }

  closed() {
    if (this.stream !== null) this.stream.gone = true;
    if (this.busy) stats.aborted += 1;
    this.busy = false;
  }

  json(status, value) {
    const body = JSON.stringify(value);
    this.socket.write(
      `HTTP/1.1 ${status} ${status === 200 ? 'OK' : 'Error'}\r\ncontent-type: application/json\r\n` +
        `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    );
    this.next();
  }

  refuse(status, code) {
    stats.refused += 1;
    this.json(status, { error: { message: code, type: 'invalid_request_error', param: null, code } });
  }
}

resetStats();
const server = net.createServer((socket) => new Connection(socket));
server.listen({ host: '127.0.0.1', port: 0, backlog: 8192 }, () => {
  process.stdout.write(JSON.stringify({ port: server.address().port }) + '\n');
});
process.stdin.on('end', () => process.exit(0)).resume();
