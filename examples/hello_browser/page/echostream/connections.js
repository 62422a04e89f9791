// What carries a session: one WebSocket with the mux, or WebTransport with streams of its own.
//
// Both offer the same: `open()` and `onSubstream` for substreams (see MuxSubstream in mux.js for what those can do),
// `closed`, a promise of `{code, reason, byPeer, error}`, and `close(code, reason)`. The first substream that is opened
// is the control substream.

import { Mux } from "./mux.js";
import { CloseCode, ConnectionLost, ProtocolError, SubstreamReset, join } from "./wire.js";

const SUBPROTOCOL = "echostream.v1";
const AHEAD_BYTES = 262_144; // what may wait inside the WebSocket: it can no longer be overtaken by a small call
const LOOK_AGAIN_MS = 4; // a WebSocket does not tell when it has sent something
const LARGE_BYTES = 16_384; // what is larger is not copied to be joined with its neighbours

/** No connection was made; the message says what may help, for browsers hardly ever say what went wrong. */
export class ConnectFailed extends ConnectionLost {
  constructor(message, options) {
    super(message, { notProcessed: true });
    this.name = "ConnectFailed";
    Object.assign(this, options);
  }
}

/** What both have in common: how they end. */
class Connection {
  onSubstream = () => {};
  /** When something last arrived, on the clock of `performance.now()`. */
  lastHeard = performance.now();
  #end;

  constructor() {
    this.closed = new Promise((resolve) => (this.#end = resolve));
  }

  ended(code, reason, { byPeer, error = null }) {
    this.#end({ code, reason, byPeer, error });
  }
}

export class WebSocketConnection extends Connection {
  inlineMaxBytes = 17_408;
  #socket;
  #mux;
  #pumping = false;

  static async open(url, { signal, WebSocket = globalThis.WebSocket }) {
    signal?.throwIfAborted();
    const socket = new WebSocket(url, SUBPROTOCOL);
    socket.binaryType = "arraybuffer";
    try {
      await new Promise((resolve, reject) => {
        socket.onopen = resolve;
        socket.onclose = ({ code }) => reject(new ConnectFailed(hintsForWebSocket(url), { code }));
        signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
      });
    } catch (error) {
      socket.onclose = null;
      socket.close();
      throw error;
    }
    return new WebSocketConnection(socket);
  }

  constructor(socket) {
    super();
    this.#socket = socket;
    this.#mux = new Mux({
      onSubstream: (substream) => this.onSubstream(substream),
      onClose: (code, reason) => this.#finish(code, reason, { byPeer: true }),
      wake: () => this.#wake(),
    });
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = ({ code, reason }) => {
      const error = new ConnectionLost(`the WebSocket was closed with code ${code} ${reason}`.trim(), { code });
      this.#finish(null, error.message, { byPeer: true, error });
    };
  }

  open({ control = false } = {}) {
    return this.#mux.open({ control });
  }

  close(code, reason, error = null) {
    if (this.#mux.closed) return;
    if (this.#socket.readyState === 1) this.#socket.send(this.#mux.takeClose(code, reason));
    this.#finish(code, reason, { byPeer: false, error });
  }

  #received(data) {
    this.lastHeard = performance.now();
    try {
      if (typeof data === "string") throw new ProtocolError("a text message: EchoStream's are binary");
      this.#mux.receive(new Uint8Array(data));
    } catch (error) {
      this.close(error.closeCode ?? CloseCode.INTERNAL, error.message, error);
    }
  }

  #finish(code, reason, how) {
    const error = how.error ?? new ConnectionLost(`closed with code ${code}: ${reason}`, { code });
    this.#mux.fail(error);
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close(1000);
    this.ended(code, reason, how);
  }

  /** What is written in one turn goes out together. */
  #wake() {
    if (this.#pumping) return;
    this.#pumping = true;
    queueMicrotask(() => this.#pump());
  }

  #pump() {
    for (;;) {
      if (this.#socket.bufferedAmount > AHEAD_BYTES) return setTimeout(() => this.#pump(), LOOK_AGAIN_MS);
      const bytes = this.#mux.take();
      if (!bytes) break;
      this.#socket.send(bytes);
    }
    this.#pumping = false;
  }
}

/** One bidirectional stream of WebTransport. */
class NativeSubstream {
  #connection;
  #stream;
  #reader = null;
  #writer = null;
  #outbox = [];
  #flushing = false;
  #ending = false;
  #given = false; // our direction is given up
  #stoppedWith = null; // our code, when we read no more

  /** `stream`: one of the peer's, or the promise of one of ours. */
  constructor(connection, stream) {
    this.#connection = connection;
    this.#stream = Promise.resolve(stream).then((made) => {
      this.#reader = made.readable.getReader();
      this.#writer = made.writable.getWriter();
      return made;
    });
    this.stopped = this.#stream
      .then(() => this.#writer.closed)
      .then(() => new Promise(() => {}), (error) => error?.streamErrorCode ?? CloseCode.CANCELLED);
  }

  async read() {
    try {
      await this.#stream;
      const { value, done } = await this.#reader.read();
      this.#connection.lastHeard = performance.now();
      if (this.#stoppedWith === null) return done ? null : value;
    } catch (error) {
      const code = error?.source === "stream" ? error.streamErrorCode : null;
      throw code === null ? await this.#connection.lost() : new SubstreamReset(code);
    }
    throw new SubstreamReset(this.#stoppedWith);
  }

  write(...chunks) {
    this.#outbox.push(...chunks);
    this.#flush();
  }

  end() {
    this.#ending = true;
    this.#flush();
  }

  reset(code) {
    this.#given = true;
    this.#outbox.length = 0;
    this.#stream.then(() => this.#writer.abort(streamError(code))).catch(unread);
  }

  /** The browser does not show how the peer answers this: the substream counts as over at once. */
  stop(code) {
    this.#stoppedWith ??= code;
    this.#stream.then(() => this.#reader.cancel(streamError(code))).catch(unread);
  }

  /** What is written in one turn goes out together. */
  async #flush() {
    if (this.#flushing) return;
    this.#flushing = true;
    try {
      await this.#stream;
      while (this.#outbox.length) {
        let small = 0;
        while (small < this.#outbox.length && this.#outbox[small].length < LARGE_BYTES) small++;
        // Not awaited: the browser keeps them in order. A failure is seen by whoever reads.
        this.#writer.write(join(this.#outbox.splice(0, Math.max(small, 1)))).catch(unread);
      }
      if (this.#ending && !this.#given) this.#writer.close().catch(unread);
    } catch (error) {
      unread(error);
    }
    this.#flushing = this.#ending; // nothing comes behind the end
  }
}

export class WebTransportConnection extends Connection {
  inlineMaxBytes = 2_048;
  #transport;
  #closing = null;

  static async open(url, { certificateHashes = [], signal, WebTransport = globalThis.WebTransport }) {
    if (!WebTransport) {
      throw new ConnectFailed("this browser has no WebTransport, or only on secure pages (https, or localhost)");
    }
    signal?.throwIfAborted();
    const address = url.replace(/^wt:/, "https:");
    const hashes = certificateHashes.map((hash) => ({ algorithm: "sha-256", value: hashBytes(hash) }));
    const transport = new WebTransport(address, hashes.length ? { serverCertificateHashes: hashes } : {});
    transport.closed.catch(unread); // told by `ready`
    try {
      await new Promise((resolve, reject) => {
        const failed = (cause) => new ConnectFailed(hintsForWebTransport(url, cause), { cause });
        transport.ready.then(resolve, (cause) => reject(failed(cause)));
        signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
      });
    } catch (error) {
      transport.close();
      throw error;
    }
    return new WebTransportConnection(transport);
  }

  constructor(transport) {
    super();
    this.#transport = transport;
    transport.closed.then(
      ({ closeCode = 0, reason = "" } = {}) => this.ended(closeCode, reason, { byPeer: true }),
      (cause) => {
        const error = new ConnectionLost(`WebTransport: ${cause.message}`);
        this.ended(null, error.message, { byPeer: true, error });
      },
    );
    this.#accept();
  }

  open() {
    return new NativeSubstream(this, this.#transport.createBidirectionalStream());
  }

  close(code, reason, error = null) {
    if (this.#closing) return;
    this.#closing = true;
    this.ended(code, reason, { byPeer: false, error });
    // At most 1,024 bytes go out; cut by characters, at most three bytes each.
    this.#transport.close({ closeCode: code, reason: reason.slice(0, 340) });
  }

  /** Why nothing can be read any more. */
  async lost() {
    const { code, reason, error } = await this.closed;
    return error ?? new ConnectionLost(`closed with code ${code}: ${reason}`, { code });
  }

  async #accept() {
    const streams = this.#transport.incomingBidirectionalStreams.getReader();
    try {
      for (let next; !(next = await streams.read()).done; ) this.onSubstream(new NativeSubstream(this, next.value));
    } catch (error) {
      unread(error); // the connection is over: `closed` says how
    }
  }
}

/** The failure of one write or stream: whoever reads the substream, or waits for `closed`, is told of it. */
function unread(_error) {}

/** In the form of the specification, or in the older one that Chromium takes, where codes have eight bits. */
function streamError(code) {
  try {
    return new WebTransportError("given up", { source: "stream", streamErrorCode: code });
  } catch {
    return new WebTransportError({ message: "given up", streamErrorCode: Math.min(code, 255) });
  }
}

/** SHA-256 of a certificate: bytes, base64 as `echostream cert browser` prints it, or hex with or without colons. */
export function hashBytes(hash) {
  if (typeof hash !== "string") return hash;
  const digits = hash.replaceAll(":", "");
  const bytes = /^[0-9a-f]{64}$/i.test(digits)
    ? Uint8Array.from(digits.match(/../g), (pair) => parseInt(pair, 16))
    : Uint8Array.from(atob(hash), (character) => character.charCodeAt(0));
  if (bytes.length !== 32) throw new TypeError(`a certificate's SHA-256 hash has 32 bytes, not ${bytes.length}`);
  return bytes;
}

function hintsForWebSocket(url) {
  const hints = [`No WebSocket connection to ${url}, and the browser tells a page no reason; its console may say more.`,
    "Is the server running there, and this its path?",
    `Does its option "origins" admit this page (${globalThis.origin})?`];
  if (url.startsWith("wss:")) hints.push("Does the browser trust its certificate?");
  return hints.join(" ");
}

function hintsForWebTransport(url, cause) {
  return [`No WebTransport connection to ${url}: ${cause.message}`,
    "Is the server running, its UDP port open, and this its path?",
    "Is the hash that of its present certificate (ECDSA, valid for at most 14 days)?",
    `Does its option "origins" admit this page (${globalThis.origin})? The browser's console may say more.`].join(" ");
}
