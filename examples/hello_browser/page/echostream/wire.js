// What EchoStream peers send each other, as bytes: docs/wire.md, whose section numbers stand in the comments below.
// Nothing here knows a connection or a clock, so all of it is tested against the protocol's own vectors.

export const MAX_MESSAGE_BYTES = 4_194_304; // section 10: the longest request or answer, unless SETUP says otherwise
export const MAX_METADATA_BYTES = 8_192;
export const MAX_ERROR_BYTES = 16_384;
const MAX_SETUP_BYTES = 16_384;
export const MAX_CALLS = 128; // what a peer may have open at once; no SETUP may name less
export const MAX_INTERNED = 1_024;
export const INLINE_ALWAYS_BYTES = 17_408; // payloads up to this are taken in-line, whatever SETUP says later

export const CloseCode = Object.freeze({
  OK: 0, INTERNAL: 1, PROTOCOL: 2, LIMIT: 3, TIMEOUT: 4, UNAUTHENTICATED: 5, GOING_AWAY: 6, CANCELLED: 7, REFUSED: 8,
  VERSION: 9, SLOW: 10,
});

const STATUS = [
  "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
  "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
];

// ---------------------------------------------------------------------------------------------------------- errors

/** A call failed. `status` is one of gRPC's names; with `notProcessed` no handler has run. */
export class RpcError extends Error {
  constructor(status, message, { notProcessed = false, retryable = false, retryAfterMs = 0, details = [] } = {}) {
    super(message);
    this.name = "RpcError";
    Object.assign(this, { status, notProcessed, retryable, retryAfterMs, details });
  }
}

/** There is no connection, or not any more. `code` is the peer's close code, if it gave one. */
export class ConnectionLost extends RpcError {
  constructor(message, { code = null, notProcessed = false } = {}) {
    super("UNAVAILABLE", message, { notProcessed });
    this.name = "ConnectionLost";
    this.code = code;
  }
}

/** The peer broke a rule of the protocol: the connection is closed with `closeCode`. */
export class ProtocolError extends Error {
  constructor(message, closeCode = CloseCode.PROTOCOL) {
    super(message);
    this.name = "ProtocolError";
    this.closeCode = closeCode;
  }
}

/** The peer gave up its direction of one substream. */
export class SubstreamReset extends Error {
  constructor(code) {
    super(`the substream was reset with code ${code}`);
    this.code = code;
  }
}

/** A message is announced that is longer than we take: the call fails, the session goes on. */
export class MessageTooLong extends Error {}

// ----------------------------------------------------------------------------------------------------------- bytes

export const utf8 = new TextEncoder();
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder("utf-8", { ignoreBOM: true });
export const NOTHING = new Uint8Array(0);

export function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function join(chunks) {
  if (chunks.length === 1) return chunks[0];
  const whole = new Uint8Array(chunks.reduce((size, chunk) => size + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

/** A varint of RFC 9000 section 16, in its shortest form. */
export function encodeVarint(value) {
  const size = value < 0x40 ? 1 : value < 0x4000 ? 2 : value < 0x4000_0000 ? 4 : 8;
  const bytes = new Uint8Array(size);
  for (let at = size - 1, rest = value; at >= 0; at--, rest = Math.floor(rest / 256)) bytes[at] = rest % 256;
  bytes[0] |= [0, 0, 0x40, 0, 0x80, 0, 0, 0, 0xc0][size];
  return bytes;
}

const withLength = (bytes) => join([encodeVarint(bytes.length), bytes]);
const textWithLength = (text) => withLength(utf8.encode(text));

/**
 * A payload in the codec `json`, in which bytes are base64 text. JSON.stringify by itself would write them as a map of
 * numbers, and drop what it has no word for: the other side would never know.
 */
export function encodeJson(value) {
  const text = JSON.stringify(value, (_, part) => {
    if (part instanceof Uint8Array) return base64(part);
    if (part instanceof ArrayBuffer) return base64(new Uint8Array(part));
    if (ArrayBuffer.isView(part)) throw new TypeError(`JSON cannot carry a ${part.constructor.name}: send an Array`);
    return part;
  });
  if (text === undefined) throw new TypeError(`JSON cannot carry a ${typeof value}`);
  return utf8.encode(text);
}

function base64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 32_768) text += String.fromCharCode(...bytes.subarray(at, at + 32_768));
  return btoa(text);
}

/** Reads fields one behind the other; what runs over the end is the peer's mistake. */
export class Reader {
  constructor(bytes, what) {
    this.bytes = bytes;
    this.at = 0;
    this.what = what;
  }

  get done() {
    return this.at === this.bytes.length;
  }

  take(size) {
    if (this.at + size > this.bytes.length) throw new ProtocolError(`${this.what}: a field runs over the end`);
    this.at += size;
    return this.bytes.subarray(this.at - size, this.at);
  }

  /** An unsigned integer of `size` bytes, little-endian. */
  uint(size) {
    return this.take(size).reduceRight((sum, byte) => sum * 256 + byte, 0);
  }

  /** Beyond 2^53 inexact: no length is that large, and other numbers are limits that nobody reaches. */
  varint() {
    const first = this.take(1)[0];
    return this.take((1 << (first >> 6)) - 1).reduce((sum, byte) => sum * 256 + byte, first & 0x3f);
  }

  lengthAndBytes() {
    return this.take(this.varint());
  }

  text(bytes = this.lengthAndBytes()) {
    try {
      return strict.decode(bytes);
    } catch {
      throw new ProtocolError(`${this.what}: a text that is not UTF-8`);
    }
  }

  /** A list of texts up to the end, none twice. */
  names(limit) {
    const names = new Set();
    for (let count = 1; !this.done; count++) {
      if (names.add(this.text()).size < count) throw new ProtocolError(`${this.what}: a name stands twice`);
      if (count > limit) throw new ProtocolError(`${this.what}: more than ${limit} names`);
    }
    return [...names];
  }
}

// ---------------------------------------------------------------------------------------------------------- frames

export const Frame = Object.freeze({
  SETUP: 1, CALL: 2, RESPONSE: 3, CANCEL: 4, PING: 5, PONG: 6, GOAWAY: 7, EVENT: 8, TOPIC: 9, DATA: 11, SYNC: 12,
  FLOW: 13, SYNCED: 14, DROPPED: 15,
});
const LEAST_BYTES = { 2: 12, 3: 8, 4: 4, 5: 8, 6: 8, 7: 8, 8: 4, 9: 1, 12: 4, 13: 4, 14: 4, 15: 8 };
export const NAMED = 0x01; // CALL
const ERROR = 0x01; // RESPONSE
export const FINAL = 0x01; // GOAWAY
const COMPRESSED = 0x02;
const IGNORABLE = 0x80;
export const FULL_NAME = 0xffff;

export const Kind = Object.freeze({ CONTROL: 1, CALL: 2, STREAM: 3, EVENTS: 4, EXTENSION: 5, RESPONSE: 6 });

/** Section 3: which frames a side may send on a substream of a kind; "opener" and "acceptor" as there. */
export const LEGAL = {
  CONTROL: new Set([1, 2, 3, 4, 5, 6, 7, 13, 14]),
  CALL: { opener: new Set([Frame.CALL]), acceptor: new Set([Frame.RESPONSE]) },
  STREAM: { opener: new Set([Frame.CALL, Frame.DATA]), acceptor: new Set([Frame.DATA, Frame.RESPONSE]) },
  EVENTS: { opener: new Set([Frame.EVENT, Frame.TOPIC, Frame.DROPPED, Frame.SYNC]) },
  RESPONSE: { opener: new Set([Frame.RESPONSE]) },
};

/** The eight bytes with which every substream begins. */
export function encodeHead(kind, priority, number) {
  const head = new Uint8Array(8);
  head[0] = kind;
  head[1] = priority;
  viewOf(head).setUint32(4, number, true);
  return head;
}

/** The eight bytes before the body of a frame, which has `size` bytes. */
function encodePrefix(type, flags, aux, size) {
  const head = new Uint8Array(8);
  head[0] = type;
  head[1] = flags;
  viewOf(head).setUint16(2, aux, true);
  viewOf(head).setUint32(4, size, true);
  return head;
}

export function encodeFrame(type, flags, aux, ...body) {
  return join([encodePrefix(type, flags, aux, body.reduce((size, part) => size + part.length, 0)), ...body]);
}

export function u32(...numbers) {
  const bytes = new Uint8Array(4 * numbers.length);
  numbers.forEach((number, place) => viewOf(bytes).setUint32(4 * place, number, true));
  return bytes;
}

/**
 * A CALL, all but its payload of `size` bytes, which is not copied. `method` is the name in UTF-8, and `methodId` the
 * number by which it is known from now on; without `method` the number was given before.
 */
export function encodeCall({ number, timeoutMs, methodId, method, codec, priority, metadata = NOTHING }, size) {
  const fields = new Uint8Array(12);
  const view = viewOf(fields);
  view.setUint32(0, number, true);
  view.setUint32(4, timeoutMs, true);
  view.setUint16(8, methodId, true);
  fields[10] = codec;
  fields[11] = priority;
  const name = method ? [Uint8Array.of(method.length), method] : [];
  const head = join([fields, metadata, ...name]);
  return join([encodePrefix(Frame.CALL, method ? NAMED : 0, metadata.length, head.length + size), head]);
}

/** `names`: those interned so far, to which a new one is added; null on a substream of its own (section 4). */
export function parseCall({ flags, aux, body }, names) {
  const reader = new Reader(body, "CALL");
  const number = reader.uint(4);
  const timeoutMs = reader.uint(4);
  const method = reader.uint(2);
  const codec = reader.uint(1);
  const priority = reader.uint(1);
  const metadata = reader.take(aux);
  let name = names?.[method];
  if (flags & NAMED) {
    const size = reader.uint(1);
    if (!size) throw new ProtocolError("CALL: a method without a name");
    name = reader.text(reader.take(size));
    if (method !== FULL_NAME) {
      if (method !== names?.length) throw new ProtocolError(`CALL: ${method} is not the next number of a name`);
      if (method >= MAX_INTERNED) throw new ProtocolError("CALL: too many interned names", CloseCode.LIMIT);
      names.push(name);
    }
  } else if (name === undefined) {
    throw new ProtocolError(`CALL: the method ${method} was never named`);
  }
  const payload = body.subarray(reader.at);
  return { number, timeoutMs, name, method, codec, priority, metadata, payload, compressed: !!(flags & COMPRESSED) };
}

/** A RESPONSE, all but its payload of `size` bytes. */
export function encodeResponse(number, codec, size, error = false) {
  const fields = join([u32(number), Uint8Array.of(codec, 0, 0, 0)]);
  return join([encodePrefix(Frame.RESPONSE, error ? ERROR : 0, 0, 8 + size), fields]);
}

export function parseResponse({ flags, body }) {
  const [number, codec, payload] = [viewOf(body).getUint32(0, true), body[4], body.subarray(8)];
  return { number, codec, payload, error: !!(flags & ERROR), compressed: !!(flags & COMPRESSED) };
}

/** Section 7; a detail's value is JSON here. */
export function encodeError({ status, message, notProcessed, retryable, retryAfterMs, details }) {
  const flags = (notProcessed ? 1 : 0) | (retryable ? 2 : 0);
  const head = join([Uint8Array.of(STATUS.indexOf(status), 0, flags), u32(retryAfterMs)]);
  const pairs = details.flatMap(([name, value]) => [textWithLength(name), textWithLength(JSON.stringify(value))]);
  const text = textWithLength(message.slice(0, 3_000)); // at most three bytes per unit of a JavaScript string
  const whole = join([head, text, encodeVarint(details.length), ...pairs]);
  return whole.length <= MAX_ERROR_BYTES ? whole : join([head, text, encodeVarint(0)]);
}

export function decodeError(bytes, decode = (value) => JSON.parse(lenient.decode(value))) {
  const reader = new Reader(bytes, "an error");
  const status = STATUS[reader.uint(2) || 2] ?? "UNKNOWN";
  const flags = reader.uint(1);
  const retryAfterMs = reader.uint(4);
  const message = reader.text();
  const count = reader.varint();
  if (count > 1_024) throw new ProtocolError("an error with more than 1,024 details");
  const details = [];
  for (let left = count; left; left--) details.push([reader.text(), decode(reader.lengthAndBytes())]);
  if (!reader.done) throw new ProtocolError("an error with bytes behind its last detail");
  const [notProcessed, retryable] = [!!(flags & 1), !!(flags & 2)];
  return new RpcError(status, message, { notProcessed, retryable, retryAfterMs, details });
}

const KEY = /^[a-z0-9._-]{1,128}$/;

/** Section 6: `pairs` is an object or a list of pairs; the values are texts, or bytes under keys that end in "-bin". */
export function encodeMetadata(pairs) {
  const list = Array.isArray(pairs) ? pairs : Object.entries(pairs);
  const parts = list.map(([key, value]) => {
    const isText = typeof value === "string";
    if (!KEY.test(key) || key.startsWith("echostream-") || key.endsWith("-bin") === isText) {
      const text = `metadata key "${key}": a-z 0-9 . _ -; bytes under keys that end in -bin, else text`;
      throw new RpcError("INVALID_ARGUMENT", text, { notProcessed: true });
    }
    return join([textWithLength(key), withLength(isText ? utf8.encode(value) : value)]);
  });
  const bytes = join([encodeVarint(list.length), ...parts]);
  if (list.length > 64 || bytes.length > MAX_METADATA_BYTES) {
    throw new RpcError("INVALID_ARGUMENT", "metadata has at most 64 entries and 8,192 bytes", { notProcessed: true });
  }
  return bytes;
}

export function decodeMetadata(bytes) {
  const reader = new Reader(bytes, "metadata");
  const pairs = [];
  for (let left = reader.varint(); left > 0; left--) {
    const key = reader.text();
    if (!KEY.test(key)) throw new ProtocolError("metadata: a key that is not allowed");
    const value = reader.lengthAndBytes();
    pairs.push([key, key.endsWith("-bin") ? value.slice() : reader.text(value)]);
  }
  if (!reader.done) throw new ProtocolError("metadata: bytes behind the last entry");
  return pairs;
}

// Section 5. Numbers of SETUP by their key; texts and lists are written out below.
const SETUP_NUMBERS = new Map([
  [2, "capabilities"], [3, "maxMessageBytes"], [4, "maxConcurrentCalls"], [5, "keepaliveFloorMs"], [6, "idleLimitMs"],
  [9, "inlineMaxBytes"],
]);

export function encodeSetup(setup) {
  const parts = [];
  const add = (key, value) => parts.push(encodeVarint(key), withLength(value));
  add(1, join(setup.codecs.map(textWithLength)));
  for (const [key, name] of SETUP_NUMBERS) if (setup[name] !== undefined) add(key, encodeVarint(setup[name]));
  if (setup.credentials) add(7, join(Object.entries(setup.credentials).flat().map(textWithLength)));
  if (setup.agent !== undefined) add(8, utf8.encode(setup.agent));
  if (setup.grease !== undefined) add(0x1a2a + 32 * setup.grease, Uint8Array.of(7));
  return encodeFrame(Frame.SETUP, 0, 0, ...parts);
}

export function decodeSetup(body) {
  const setup = { codecs: null, capabilities: 0, maxMessageBytes: MAX_MESSAGE_BYTES, maxConcurrentCalls: MAX_CALLS,
    keepaliveFloorMs: 0, idleLimitMs: 0, inlineMaxBytes: 0, agent: "", name: "", listeners: [] };
  const seen = new Set();
  for (const reader = new Reader(body, "SETUP"); !reader.done; ) {
    const key = reader.varint();
    if (seen.size === seen.add(key).size) throw new ProtocolError(`SETUP: the parameter ${key} stands twice`);
    const value = new Reader(reader.lengthAndBytes(), `SETUP, parameter ${key}`);
    if (key === 1) setup.codecs = value.names(32);
    else if (key === 7) for (let count = 1; !value.done; count++) readPair(value, count);
    else if (key === 8) setup.agent = value.text(value.bytes);
    else if (key === 10) setup.name = value.text(value.bytes);
    else if (key === 11) while (!value.done) setup.listeners.push(readListener(value, setup.listeners.length));
    else if (key === 12) value.names(16);
    else if (SETUP_NUMBERS.has(key)) {
      setup[SETUP_NUMBERS.get(key)] = value.varint();
      if (!value.done) throw new ProtocolError(`SETUP: bytes behind the number of parameter ${key}`);
    }
  }
  if (!setup.codecs?.includes("json")) throw new ProtocolError("SETUP: the codec json must be listed");
  if (setup.maxConcurrentCalls < MAX_CALLS) throw new ProtocolError(`SETUP: fewer than ${MAX_CALLS} calls`);
  return setup;
}

function readPair(reader, count) {
  if (count > 16) throw new ProtocolError("SETUP: more than 16 credentials");
  reader.text();
  reader.text();
}

function readListener(reader, count) {
  const [pattern, policy, queue] = [reader.text(), reader.varint(), reader.varint()];
  const segments = pattern.split(".");
  const wrong = segments.some((one, place) => !one || /\s/.test(one) || (one === "**" && place < segments.length - 1));
  if (wrong || segments.length > 8 || policy > 4 || count >= 256) throw new ProtocolError("SETUP: a wrong listener");
  return [pattern, policy, queue];
}

/**
 * Cuts the bytes of one direction of a substream into frames, however they arrive.
 *
 * `legal`: the types that may come, all others must be ignorable. With `setupFirst` it is the control substream, where
 * frames are short and the first is SETUP.
 */
export class FrameParser {
  #legal;
  #maxBytes;
  #setupFirst;
  #head = new Uint8Array(8);
  #have = 0; // of the head, then of the body
  #frame = null; // whose body is coming
  #pieces = [];

  constructor(legal, { maxBytes, setupFirst = false }) {
    this.#legal = legal;
    this.#maxBytes = maxBytes;
    this.#setupFirst = setupFirst;
  }

  /** Bytes of the frame that has begun, all told; 0 between two frames. */
  get expected() {
    return this.#frame ? 8 + this.#frame.length : this.#have;
  }

  /** Calls `onFrame({type, flags, aux, body})` for each frame that `chunk` completes. */
  push(chunk, onFrame) {
    let at = 0;
    while (at < chunk.length || (this.#frame && this.#have === this.#frame.length)) {
      const missing = (this.#frame ? this.#frame.length : 8) - this.#have;
      const part = chunk.subarray(at, at + missing);
      at += part.length;
      if (!this.#frame) {
        this.#head.set(part, this.#have);
        this.#have += part.length;
        if (this.#have === 8) this.#begin();
        continue;
      }
      if (part.length && !this.#frame.skipped) this.#pieces.push(part);
      this.#have += part.length;
      if (part.length === missing) this.#complete(onFrame);
    }
  }

  #begin() {
    const [type, flags] = this.#head;
    const aux = viewOf(this.#head).getUint16(2, true);
    const length = viewOf(this.#head).getUint32(4, true);
    const known = this.#legal.has(type);
    if (this.#setupFirst && type !== Frame.SETUP) throw new ProtocolError("the first frame must be SETUP");
    if (!known && !(flags & IGNORABLE)) throw new ProtocolError(`frame type ${type} is not allowed here`);
    const control = this.#legal === LEGAL.CONTROL;
    const limit = this.#setupFirst ? MAX_SETUP_BYTES : known || control ? this.#maxBytes : 65_536;
    if (length > limit && (control || !known)) throw new ProtocolError(`a frame of ${length} bytes`, CloseCode.LIMIT);
    if (length > limit) throw new MessageTooLong(`${length} bytes, at most ${limit} are taken`);
    if (known && length < (LEAST_BYTES[type] ?? 0)) throw new ProtocolError(`frame type ${type} with ${length} bytes`);
    this.#frame = { type, flags, aux, length, skipped: !known };
    this.#have = 0;
  }

  #complete(onFrame) {
    const { type, flags, aux, skipped } = this.#frame;
    const body = this.#pieces.length ? join(this.#pieces) : NOTHING;
    if (this.#setupFirst) this.#setupFirst = false;
    else if (type === Frame.SETUP && !skipped) throw new ProtocolError("a second SETUP");
    this.#pieces = [];
    this.#frame = null;
    this.#have = 0;
    if (!skipped) onFrame({ type, flags, aux, body });
  }
}
