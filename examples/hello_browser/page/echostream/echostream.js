// A small EchoStream client for browsers: a folder of ES modules, nothing to install and nothing to build.
//
//     import { connect } from "./echostream/echostream.js";
//
//     const session = await connect("wt://localhost:4433/hello", { certificateHashes: [base64] });
//     await session.request("math.add", { a: 2, b: 3 });              // 5
//     session.handle("page.title", () => document.title);             // the server may call the page as well
//     const { code, reason } = await session.closed;
//
// "wt://" goes over WebTransport and has streams of its own; "ws://" and "wss://" go over one WebSocket, where the
// streams are made by the mux. Above that both are the same: calls in both directions in the codec `json`, in-line
// where they are small and on a stream of their own where they are not. Not in it: events, streams of items, datagrams,
// other codecs, compression, and reconnecting, which a page does by connecting again (page.js shows it).

import { ConnectFailed, WebSocketConnection, WebTransportConnection } from "./connections.js";
import { WINDOW_BYTES } from "./mux.js";
import {
  CloseCode, ConnectionLost, Frame, FrameParser, FINAL, FULL_NAME, INLINE_ALWAYS_BYTES, Kind, LEGAL, MAX_CALLS,
  MAX_ERROR_BYTES, MAX_INTERNED, MAX_MESSAGE_BYTES, MAX_METADATA_BYTES, MessageTooLong, NOTHING, ProtocolError, Reader,
  RpcError, SubstreamReset, decodeError, decodeMetadata, decodeSetup, encodeCall, encodeError, encodeFrame, encodeHead,
  encodeJson, encodeMetadata, encodeResponse, encodeSetup, join, parseCall, parseResponse, u32, utf8,
} from "./wire.js";

export { CloseCode, ConnectFailed, ConnectionLost, ProtocolError, RpcError };

const AGENT = "echostream-hello-browser";
const ASSEMBLY_BYTES = 16_777_216; // memory for messages that are being put together; what does not fit waits
const MESSAGE_LIMIT = { maxBytes: MAX_MESSAGE_BYTES + MAX_METADATA_BYTES + MAX_ERROR_BYTES + 512 };
const CONTROL_LIMIT = { maxBytes: INLINE_ALWAYS_BYTES + MAX_METADATA_BYTES + 512, setupFirst: true };
const CONNECTIONS = { ws: WebSocketConnection, wss: WebSocketConnection, wt: WebTransportConnection };
const CLASSES = { urgent: 1, normal: 2, bulk: 3 };

/**
 * Connect to an EchoStream server and wait for its greeting.
 *
 * `url`: "ws://…", "wss://…" or "wt://…". Options: `certificateHashes`, for WebTransport to a server whose certificate
 * no public authority has signed; `credentials`, an object of texts for the server's authenticator; `timeoutMs` (10 s);
 * `keepAliveMs` (20 s); `handlers`, an object of method names and functions that the server may call, see
 * `Session.handle`. Throws ConnectFailed, whose message says what may help.
 */
export async function connect(url, { timeoutMs = 10_000, ...options } = {}) {
  const Connection = CONNECTIONS[url.split(":")[0]];
  if (!Connection) throw new ConnectFailed(`${url}: a URL of this client begins with ws://, wss:// or wt://`);
  if (options.credentials && url.startsWith("ws:") && !options.insecureCredentials) {
    throw new ConnectFailed("credentials are not sent unencrypted: use wss:// or wt://");
  }
  const timeout = new AbortController();
  const slow = new ConnectFailed(`${url} did not answer within ${timeoutMs / 1000} s`);
  const timer = setTimeout(() => timeout.abort(slow), timeoutMs);
  try {
    const connection = await Connection.open(url, { ...options, signal: timeout.signal });
    const session = new Session(connection, options);
    timeout.signal.addEventListener("abort", () => session.close(CloseCode.TIMEOUT, "no SETUP in time"));
    const greeted = await Promise.race([session.greeted, session.closed]);
    if (greeted === session) return session;
    if (timeout.signal.aborted) throw slow;
    const { code, reason, error } = greeted;
    throw error ?? new ConnectFailed(`${url} closed with code ${code}: ${reason}`, { code });
  } finally {
    clearTimeout(timer);
  }
}

/** A live peer. Made by `connect`. */
export class Session {
  /** "opening", "open", "draining" (the peer takes no more calls) or "closed". */
  state = "opening";
  /** Called with each new state. */
  onstate = () => {};
  /** What the peer's SETUP says. */
  peer = null;

  #connection;
  #control;
  #handlers = new Map();
  #keepAliveMs;
  #keepAlive;
  #asked = 0; // when lookForLife sent its last PING
  #pings = [];
  #greet;
  #close;
  #assembly = new Assembly(ASSEMBLY_BYTES);
  // calls of ours
  #nextNumber = 0;
  #interned = new Map();
  #pending = new Map(); // number → call, until its final frame: also of calls that were given up
  #waiting = []; // for a slot
  // calls of the peer
  #names = []; // that it has interned
  #running = new Map(); // number → AbortController
  #left = false; // GOAWAY was final: when all is answered, we close
  #served = false; // handlers of ours ran while the peer was leaving

  constructor(connection, { credentials, handlers = {}, keepAliveMs = 20_000 } = {}) {
    this.#connection = connection;
    /** Resolves with the session when the peer's SETUP is here. */
    this.greeted = new Promise((resolve) => (this.#greet = resolve));
    /** Resolves at the end with `{code, reason, byPeer, error}`; `error` is null for an orderly end. */
    this.closed = new Promise((resolve) => (this.#close = resolve));
    for (const [method, handler] of Object.entries(handlers)) this.handle(method, handler);
    this.#control = connection.open({ control: true });
    this.#control.write(encodeHead(Kind.CONTROL, 0, 0), encodeSetup({
      codecs: ["json"], capabilities: 0, maxMessageBytes: MAX_MESSAGE_BYTES, maxConcurrentCalls: MAX_CALLS,
      keepaliveFloorMs: 0, idleLimitMs: 3 * keepAliveMs, inlineMaxBytes: connection.inlineMaxBytes, credentials,
      agent: AGENT, grease: Math.floor(Math.random() * 64),
    }));
    connection.onSubstream = (substream) => this.#guard(this.#accept(substream));
    this.#keepAliveMs = keepAliveMs;
    this.#keepAlive = setInterval(() => this.#lookForLife(), keepAliveMs);
    this.#guard(this.#readControl()).then(() => this.#end());
  }

  // ------------------------------------------------------------------------------------------------- for the page

  /**
   * Call `method` of the peer; resolves with its answer.
   *
   * `payload` is anything that JSON can carry, or a Uint8Array, which travels as it is; one within another value, or in
   * an answer, travels as base64 text. Options: `timeoutMs` (30 s, null: none), `signal` (an AbortSignal), `metadata`,
   * `priority` ("urgent", "normal", "bulk"). Throws RpcError, and TypeError for what cannot travel.
   */
  async request(method, payload = null, { timeoutMs = 30_000, signal, metadata, priority = "normal" } = {}) {
    const raw = payload instanceof Uint8Array;
    const call = {
      name: method,
      method: utf8.encode(method),
      codec: raw ? 0 : 1,
      body: raw ? payload : encodeJson(payload),
      metadata: metadata ? encodeMetadata(metadata) : NOTHING,
      priority: CLASSES[priority],
      deadline: timeoutMs === null ? Infinity : performance.now() + timeoutMs,
      number: null, // while it waits for a slot
      substream: null, // where it has one of its own
      done: false, // answered, failed or given up: its caller waits no longer
    };
    if (!call.priority) throw new RpcError("INVALID_ARGUMENT", `priority is urgent, normal or bulk, not ${priority}`);
    if (!call.method.length || call.method.length > 255) {
      throw new RpcError("INVALID_ARGUMENT", "a method's name has 1 to 255 bytes");
    }
    const limit = this.peer?.maxMessageBytes ?? MAX_MESSAGE_BYTES;
    if (call.body.length > limit) {
      const text = `${method}: ${call.body.length} bytes, the peer's max_message_bytes is ${limit}`;
      throw new RpcError("RESOURCE_EXHAUSTED", text, { notProcessed: true });
    }
    if (this.state === "closed") throw await this.#lost(true);
    if (this.state === "draining") throw leaving(method);
    signal?.throwIfAborted();
    const late = () => new RpcError("DEADLINE_EXCEEDED", `${method}: no answer in ${timeoutMs / 1000} s`);
    const timer = timeoutMs === null ? null : setTimeout(() => this.#giveUp(call, late()), timeoutMs);
    const abort = () => this.#giveUp(call, signal.reason);
    signal?.addEventListener("abort", abort, { once: true });
    try {
      return await new Promise((resolve, reject) => {
        Object.assign(call, { resolve, reject });
        if (this.#pending.size < this.#slots) this.#start(call);
        else this.#waiting.push(call);
      });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  /**
   * Let the peer call `method`. `handler(payload, {session, metadata, signal})` answers with a value or a promise of
   * one; it may throw RpcError. `signal` is aborted when the peer gives the call up.
   */
  handle(method, handler) {
    this.#handlers.set(method, handler);
  }

  /** The time to the peer and back, in milliseconds. */
  async ping() {
    if (this.state === "closed") throw await this.#lost(true);
    const begin = performance.now();
    await new Promise((resolve, reject) => {
      this.#pings.push({ resolve, reject });
      this.#send(encodeFrame(Frame.PING, 0, 0, u32(this.#pings.length, 0)));
    });
    return performance.now() - begin;
  }

  /** End the session. Calls that are still open fail with ConnectionLost. */
  close(code = CloseCode.OK, reason = "") {
    this.#connection.close(code, reason);
  }

  // ---------------------------------------------------------------------------------------------------- our calls

  get #slots() {
    return this.peer?.maxConcurrentCalls ?? MAX_CALLS;
  }

  get #inlineMax() {
    return Math.min(this.#connection.inlineMaxBytes, this.peer?.inlineMaxBytes ?? INLINE_ALWAYS_BYTES);
  }

  #start(call) {
    while (this.#pending.has(this.#nextNumber)) this.#nextNumber = (this.#nextNumber + 2) % 2 ** 32;
    call.number = this.#nextNumber;
    this.#nextNumber = (this.#nextNumber + 2) % 2 ** 32;
    this.#pending.set(call.number, call);
    const left = call.deadline - performance.now();
    const timeoutMs = left === Infinity ? 0 : Math.min(Math.max(Math.ceil(left), 1), 0xffff_ffff);
    if (call.body.length > this.#inlineMax) {
      call.substream = this.#connection.open();
      call.substream.write(
        encodeHead(Kind.CALL, call.priority, call.number),
        encodeCall({ ...call, timeoutMs, methodId: FULL_NAME }, call.body.length), call.body,
      );
      call.substream.end();
      this.#guard(this.#readAnswer(call));
      return;
    }
    let methodId = this.#interned.get(call.name);
    const isNew = methodId === undefined;
    if (isNew) methodId = this.#interned.size < MAX_INTERNED ? this.#interned.size : FULL_NAME;
    if (isNew && methodId !== FULL_NAME) this.#interned.set(call.name, methodId);
    const head = { ...call, timeoutMs, methodId, method: isNew ? call.method : undefined };
    this.#send(encodeCall(head, call.body.length), call.body);
  }

  /** The answer on the call's own substream. A reset stands for it, and so does an end without it. */
  async #readAnswer(call) {
    try {
      await this.#readMessage(call.substream, LEGAL.CALL.acceptor, (frame) => this.#answered(frame, call.number));
    } catch (error) {
      if (error instanceof SubstreamReset) {
        const refused = error.code === CloseCode.REFUSED;
        const options = { notProcessed: refused, retryable: refused };
        const what = refused ? "refused another substream" : `gave the call up (code ${error.code})`;
        const text = `${call.name}: the peer ${what}`;
        const reset = new RpcError(refused ? "RESOURCE_EXHAUSTED" : "CANCELLED", text, options);
        this.#settle(call.number, (pending) => pending.reject(reset));
      } else if (error instanceof MessageTooLong) {
        this.#refuseAnswer(call.substream, call.number, error);
      } else {
        throw error;
      }
    }
    // Given up, or ended without an answer: its slot is free now.
    const silent = new RpcError("INTERNAL", `${call.name}: ended without an answer`);
    this.#settle(call.number, (pending) => pending.reject(silent));
  }

  #answered(frame, expected) {
    const { number, error, codec, payload, compressed } = parseResponse(frame);
    if (number !== (expected ?? number)) throw new ProtocolError(`answer ${number} on the substream of ${expected}`);
    if (!this.#pending.has(number)) throw new ProtocolError(`an answer to call ${number}, which is not open`);
    if (compressed) throw new ProtocolError("a compressed answer: SETUP lists no compression");
    this.#settle(number, (call) => {
      if (call.done) return;
      const read = (bytes, otherwise) => {
        try {
          return this.#decode(codec, bytes);
        } catch (problem) {
          if (problem instanceof ProtocolError) throw problem;
          return otherwise(problem);
        }
      };
      if (error) return call.reject(decodeError(payload, (detail) => read(detail, () => detail.slice())));
      const unreadable = ({ message }) => {
        call.reject(new RpcError("INTERNAL", `${call.name}: the answer cannot be read: ${message}`));
      };
      call.resolve(read(payload, unreadable)); // nothing, where it is rejected already
    });
  }

  /** The call's one final frame is here: its slot goes to the next. */
  #settle(number, finish) {
    const call = this.#pending.get(number);
    if (!call) return;
    this.#pending.delete(number);
    try {
      finish(call);
    } catch (error) {
      call.reject(new ConnectionLost(error.message)); // the peer broke a rule, which ends the session
      throw error;
    } finally {
      call.done = true;
      if (this.#waiting.length && this.#pending.size < this.#slots) this.#start(this.#waiting.shift());
      this.#closeIfLeft();
    }
  }

  /** The caller waits no longer. The slot stays taken until the final frame comes, so giving up buys nothing. */
  #giveUp(call, error) {
    if (call.done) return;
    call.done = true;
    call.reject(error);
    if (call.number === null) this.#waiting.splice(this.#waiting.indexOf(call), 1);
    else if (!call.substream) this.#send(encodeFrame(Frame.CANCEL, 0, 0, u32(call.number)));
    else {
      call.substream.reset(CloseCode.CANCELLED);
      call.substream.stop(CloseCode.CANCELLED);
    }
  }

  #refuseAnswer(substream, number, error) {
    substream.stop(CloseCode.LIMIT);
    const text = `the answer is too long: ${error.message}`;
    this.#settle(number, (call) => call.reject(new RpcError("RESOURCE_EXHAUSTED", text)));
  }

  // -------------------------------------------------------------------------------------------------- the control

  async #readControl() {
    const parser = new FrameParser(LEGAL.CONTROL, CONTROL_LIMIT);
    for (let bytes; (bytes = await this.#control.read()); ) parser.push(bytes, (frame) => this.#onControl(frame));
    throw new ProtocolError("the peer has ended the control substream");
  }

  #send(...parts) {
    this.#control.write(...parts);
  }

  #onControl({ type, flags, aux, body }) {
    const reader = new Reader(body, "a control frame");
    if (type === Frame.RESPONSE) this.#answered({ flags, body });
    else if (type === Frame.CALL) this.#guard(this.#serve(parseCall({ flags, aux, body }, this.#names), null));
    else if (type === Frame.PING) this.#send(encodeFrame(Frame.PONG, 0, 0, body.subarray(0, 8)));
    else if (type === Frame.PONG) this.#pings.shift()?.resolve();
    else if (type === Frame.CANCEL) this.#cancel(reader.uint(4));
    else if (type === Frame.GOAWAY) this.#leave(reader.uint(4), !!(flags & FINAL));
    else if (type === Frame.SETUP) {
      this.peer = decodeSetup(body);
      this.#turn("open");
      this.#greet(this);
    } // FLOW and SYNCED concern events, which this client does not send
  }

  /** The peer is leaving. Calls from `number` on were not processed, lower ones are still answered. */
  #leave(number, final) {
    this.#turn("draining");
    this.#served ||= this.#running.size > 0;
    for (const call of this.#waiting.splice(0)) {
      call.done = true;
      call.reject(leaving(call.name));
    }
    if (!final) return;
    this.#left = true;
    for (const open of [...this.#pending.keys()]) {
      const ahead = (open - number) >>> 0; // numbers start again behind 2^32
      if (ahead < 2 ** 31) this.#settle(open, (call) => call.reject(leaving(call.name)));
    }
    this.#closeIfLeft();
  }

  /**
   * All is answered, so the connection can be closed. Not where the peer still waits for an answer of ours: closing would
   * overtake that, and the side that leaves closes by itself when it is done.
   */
  #closeIfLeft() {
    if (this.#left && !this.#pending.size && !this.#running.size && !this.#served) this.close(CloseCode.OK, "");
  }

  #turn(state) {
    if (this.state === "closed" || this.state === state || (state === "open" && this.state === "draining")) return;
    this.state = state;
    this.onstate(state);
  }

  /**
   * A PING after a while of silence; when nothing at all comes behind it, the peer is lost. What counts is the time
   * since the PING, not the silence before: in a page in the background these timers come late.
   */
  #lookForLife() {
    const now = performance.now();
    const { lastHeard } = this.#connection;
    if (this.#asked > lastHeard && now - this.#asked >= this.#keepAliveMs / 2) {
      const reason = "no sign of life from the peer";
      this.#connection.close(CloseCode.TIMEOUT, reason, new ConnectionLost(reason));
    } else if (now - lastHeard >= this.#keepAliveMs / 2) {
      this.#asked = now;
      this.ping().catch(() => {}); // `closed` tells
    }
  }

  /** Runs what reads. A rule that the peer breaks ends the session with its code; `closed` tells of a lost one. */
  async #guard(reading) {
    try {
      await reading;
    } catch (error) {
      if (error instanceof ConnectionLost || error instanceof SubstreamReset) return;
      if (!(error instanceof ProtocolError)) console.error(error);
      this.#connection.close(error.closeCode ?? CloseCode.INTERNAL, error.message, error);
    }
  }

  /** The control substream is over. What arrived before has been handled. */
  async #end() {
    this.#connection.close(CloseCode.PROTOCOL, "the control substream is over"); // nothing if it is closed already
    const how = await this.#connection.closed;
    clearInterval(this.#keepAlive);
    this.#turn("closed");
    this.#close(how);
    const lost = await this.#lost(false);
    for (const call of [...this.#waiting.splice(0), ...this.#pending.values()]) {
      call.done = true;
      call.reject(call.number === null ? await this.#lost(true) : lost);
    }
    this.#pending.clear();
    for (const ping of this.#pings.splice(0)) ping.reject(lost);
    for (const controller of this.#running.values()) controller.abort(lost);
  }

  async #lost(notProcessed) {
    const { code, reason } = await this.#connection.closed;
    const text = reason ? `the connection is closed: ${reason}` : "the connection is closed";
    return new ConnectionLost(text, { code, notProcessed });
  }

  // --------------------------------------------------------------------------------------------- the peer's calls

  /** A substream of the peer's: it waits unread until SETUP is here, and says by its head what it is for. */
  async #accept(substream) {
    await this.greeted;
    const head = await readHead(substream);
    const reader = new Reader(head.bytes, "a substream's head");
    const [kind, , reserved, number] = [reader.uint(1), reader.uint(1), reader.uint(2), reader.uint(4)];
    if (reserved) throw new ProtocolError("a substream's head with reserved bytes that are not 0");
    if (kind === Kind.RESPONSE) return this.#acceptAnswer(substream, head.rest, number);
    if (kind === Kind.EVENTS) return this.#skipEvents(substream, head.rest);
    if (kind !== Kind.CALL && kind !== Kind.STREAM) throw new ProtocolError(`a substream of kind ${kind}`);
    checkNumber(number);
    let served = null;
    const legal = kind === Kind.CALL ? LEGAL.CALL.opener : LEGAL.STREAM.opener;
    const onFrame = (frame) => {
      if (served) return;
      if (frame.type !== Frame.CALL) throw new ProtocolError("a stream must begin with CALL");
      const call = parseCall(frame, null);
      if (call.number !== number) throw new ProtocolError(`call ${call.number} on the substream of ${number}`);
      served = kind === Kind.CALL ? this.#serve(call, substream) : this.#refuseStream(call, substream);
    };
    substream.stopped.then(() => this.#cancel(number));
    try {
      await this.#readMessage(substream, legal, onFrame, head.rest);
      if (!served) throw new ProtocolError("a call's substream ended before its message was complete");
    } catch (error) {
      if (error instanceof MessageTooLong) {
        this.#refuse(substream, number, new RpcError("RESOURCE_EXHAUSTED", error.message, { notProcessed: true }));
        return substream.stop(CloseCode.LIMIT);
      }
      if (!(error instanceof SubstreamReset)) throw error;
      this.#cancel(number);
      if (!served) substream.reset(CloseCode.CANCELLED);
    }
    await served;
  }

  /** The answer to an in-line call of ours that is too large to come in-line. */
  async #acceptAnswer(substream, rest, number) {
    substream.end();
    let here = false;
    const onFrame = (frame) => {
      if (!here) this.#answered(frame, number);
      here = true;
    };
    try {
      await this.#readMessage(substream, LEGAL.RESPONSE.opener, onFrame, rest);
      if (!here) throw new ProtocolError("an answer's substream ended before its message was complete");
    } catch (error) {
      if (error instanceof MessageTooLong) this.#refuseAnswer(substream, number, error);
      else if (error instanceof SubstreamReset) {
        const text = `the peer gave up its answer (code ${error.code})`;
        this.#settle(number, (call) => call.reject(new ConnectionLost(`${call.name}: ${text}`)));
      } else throw error;
    }
  }

  /** Nothing is subscribed to, so no event is for us. But the peer may ask when we have seen them all. */
  async #skipEvents(substream, rest) {
    substream.end();
    await this.#readMessage(substream, LEGAL.EVENTS.opener, ({ type, body }) => {
      if (type === Frame.SYNC) this.#send(encodeFrame(Frame.SYNCED, 0, 0, body.subarray(0, 4)));
    }, rest);
  }

  async #refuseStream(call, substream) {
    substream.stop(CloseCode.CANCELLED);
    const error = new RpcError("UNIMPLEMENTED", "this client takes no streams", { notProcessed: true });
    this.#refuse(substream, call.number, error);
  }

  /** The caller has given its call up. */
  #cancel(number) {
    this.#running.get(number)?.abort(new RpcError("CANCELLED", "given up by the caller"));
  }

  /** Run the handler of a call and answer exactly once; `substream` null: the call came in-line. */
  async #serve(call, substream) {
    const { number, name, timeoutMs, compressed } = call;
    checkNumber(number);
    if (this.#running.has(number)) throw new ProtocolError(`call ${number} is open already`);
    if (compressed) throw new ProtocolError("a compressed call: SETUP lists no compression");
    const controller = new AbortController();
    this.#served ||= this.state === "draining";
    this.#running.set(number, controller);
    const late = () => controller.abort(new RpcError("DEADLINE_EXCEEDED", `${name}: its time is over`));
    const timer = timeoutMs ? setTimeout(late, timeoutMs) : null;
    let body;
    let failed = null;
    try {
      body = encodeJson((await this.#handle(call, controller.signal)) ?? null);
      if (body.length > this.peer.maxMessageBytes) {
        throw new RpcError("RESOURCE_EXHAUSTED", `${name}: the answer has ${body.length} bytes`);
      }
    } catch (error) {
      if (error instanceof ProtocolError) throw error;
      failed = error;
      if (!(error instanceof RpcError)) {
        console.error(`the handler of ${name} failed`, error); // the peer is told no details
        failed = new RpcError("INTERNAL", `the handler of ${name} failed`);
      }
      body = encodeError(failed);
    } finally {
      clearTimeout(timer);
      this.#running.delete(number);
    }
    if (this.state === "closed") return;
    if (substream && failed?.status === "CANCELLED" && controller.signal.aborted) substream.reset(CloseCode.CANCELLED);
    else this.#write(substream, number, body, failed !== null);
  }

  /** What the handler answers; or, where it is given up or its time is over, why. */
  async #handle({ name, codec, metadata, payload }, signal) {
    const refusal = { notProcessed: true };
    if (this.#running.size > MAX_CALLS) throw new RpcError("RESOURCE_EXHAUSTED", "too many calls at once", refusal);
    const handler = this.#handlers.get(name);
    if (!handler) throw new RpcError("UNIMPLEMENTED", `no method '${name}'`, refusal);
    const context = { session: this, signal, metadata: metadata.length ? decodeMetadata(metadata) : [] };
    const value = this.#decodeRequest(codec, payload);
    const givenUp = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    return Promise.race([givenUp, (async () => handler(value, context))()]);
  }

  #refuse(substream, number, error) {
    this.#write(substream, number, encodeError(error), true);
  }

  /** The final frame of a call of the peer's: on its own substream, in-line, or on a new substream. */
  #write(substream, number, body, error) {
    const head = encodeResponse(number, 1, body.length, error);
    if (!substream && body.length <= this.#inlineMax) return this.#send(head, body);
    let target = substream;
    if (!target) {
      target = this.#connection.open();
      target.write(encodeHead(Kind.RESPONSE, CLASSES.normal, number));
      this.#guard(target.read()); // the peer ends its direction at once
    }
    target.write(head, body);
    target.end();
  }

  // ----------------------------------------------------------------------------------------------------- messages

  /** Read a substream to its end. What is larger than a window waits for room before more of it is taken. */
  async #readMessage(substream, legal, onFrame, begun = NOTHING) {
    const parser = new FrameParser(legal, MESSAGE_LIMIT);
    let reserved = 0;
    try {
      for (let bytes = begun; bytes; bytes = await substream.read()) {
        parser.push(bytes, onFrame);
        if (parser.expected > WINDOW_BYTES && !reserved) await this.#assembly.reserve((reserved = parser.expected));
      }
      if (parser.expected) throw new ProtocolError("a substream ended in the middle of a frame");
    } finally {
      if (reserved) this.#assembly.release(reserved);
    }
  }

  /** A value of the peer's codec `number`: its place in the peer's own SETUP, 0 for bytes as they are. */
  #decode(number, bytes) {
    if (number === 0) return bytes.slice();
    const { codecs } = this.peer;
    if (number > codecs.length) throw new ProtocolError(`codec ${number}, the peer lists ${codecs.length}`);
    if (codecs[number - 1] !== "json") throw new TypeError(`the codec ${codecs[number - 1]} is not known here`);
    return JSON.parse(new TextDecoder().decode(bytes));
  }

  #decodeRequest(codec, payload) {
    try {
      return this.#decode(codec, payload);
    } catch (error) {
      if (error instanceof ProtocolError) throw error;
      if (error instanceof TypeError) {
        const details = [["echostream.UnknownCodec", codec]];
        throw new RpcError("UNIMPLEMENTED", error.message, { notProcessed: true, details });
      }
      throw new RpcError("INVALID_ARGUMENT", `the payload cannot be decoded: ${error.message}`, { notProcessed: true });
    }
  }
}

/** Memory for messages that are being put together: so much at once, who finds no room waits in line. */
class Assembly {
  #free;
  #line = [];

  constructor(bytes) {
    this.#free = bytes;
  }

  async reserve(bytes) {
    if (this.#line.length || bytes > this.#free) await new Promise((resolve) => this.#line.push({ bytes, resolve }));
    else this.#free -= bytes;
  }

  release(bytes) {
    this.#free += bytes;
    while (this.#line.length && this.#line[0].bytes <= this.#free) {
      this.#free -= this.#line[0].bytes;
      this.#line.shift().resolve();
    }
  }
}

/** The first eight bytes of a substream, and what came with them. */
async function readHead(substream) {
  let bytes = NOTHING;
  while (bytes.length < 8) {
    const more = await substream.read();
    if (!more) throw new ProtocolError("a substream ended before its head was complete");
    bytes = join([bytes, more]);
  }
  return { bytes: bytes.subarray(0, 8), rest: bytes.subarray(8) };
}

function checkNumber(number) {
  if (number % 2 === 0) throw new ProtocolError(`call ${number} of the listener: its numbers are odd`);
}

function leaving(method) {
  return new RpcError("UNAVAILABLE", `${method}: the peer is shutting down`, { notProcessed: true, retryable: true });
}
