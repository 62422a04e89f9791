// The JavaScript client against the protocol's own vectors: tests/vectors/*.json, which the Python tests read too.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Mux } from "../../examples/hello_browser/page/echostream/mux.js";
import {
  Frame, FrameParser, LEGAL, ProtocolError, Reader, decodeError, decodeMetadata, decodeSetup, encodeCall, encodeError,
  encodeFrame, encodeHead, encodeMetadata, encodeResponse, encodeSetup, encodeVarint, join, parseCall, parseResponse,
  u32, utf8,
} from "../../examples/hello_browser/page/echostream/wire.js";

const load = (name) => JSON.parse(readFileSync(new URL(`../vectors/${name}.json`, import.meta.url), "utf8"));
const bytesOf = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const hexOf = (bytes) => Buffer.from(bytes).toString("hex");
const PING = bytesOf("05000000080000000700000000000000");
const GREASE = bytesOf("1a800000020000003f3f");

/** Whole, byte by byte, and with the first half of what follows: a reader makes the same of all three. */
const FEEDINGS = {
  whole: (bytes, spare) => [bytes, spare],
  bytewise: (bytes, spare) => [...bytes, ...spare].map((byte) => Uint8Array.of(byte)),
  spare: (bytes, spare) => [join([bytes, spare.subarray(0, spare.length / 2)]), spare.subarray(spare.length / 2)],
};

/** A vector is refused with its code, and by a ProtocolError: nothing else may come out of bytes of a peer. */
function refused(code, action) {
  assert.throws(action, (error) => {
    assert.ok(error instanceof ProtocolError, error.stack);
    assert.equal(error.closeCode, code, error.message);
    return true;
  });
}

function everyWay(vectors, name, body) {
  for (const vector of vectors) {
    for (const [how, feed] of Object.entries(FEEDINGS)) {
      test(`${name}/${vector.name}, fed ${how}`, () => body(vector, feed));
    }
  }
}

const legal = (vectors) => vectors.filter((vector) => vector.close_code === undefined);
const illegal = (vectors) => vectors.filter((vector) => vector.close_code !== undefined);

// The control substream, SETUP first.

const setups = load("setup");
const controls = load("control");
const byName = new Map([...setups, ...controls].map((vector) => [vector.name, bytesOf(vector.hex)]));

class ControlRecorder {
  parser = new FrameParser(LEGAL.CONTROL, { maxBytes: 26_112, setupFirst: true });
  names = [];
  frames = [];

  push(bytes) {
    this.parser.push(bytes, (frame) => {
      const { type, flags, aux, body } = frame;
      const reader = new Reader(body, "test");
      if (type === Frame.SETUP) this.frames.push(["setup", decodeSetup(body)]);
      else if (type === Frame.CALL) this.frames.push(callAsListed(parseCall(frame, this.names)));
      else if (type === Frame.RESPONSE) {
        const { number, codec, payload } = parseResponse(frame);
        this.frames.push(["response", number, flags, codec, hexOf(payload)]);
      } else if (type === Frame.PING) this.frames.push(["ping", Number(reader.uint(8))]);
      else if (type === Frame.PONG) this.frames.push(["pong", Number(reader.uint(8))]);
      else if (type === Frame.CANCEL) this.frames.push(["cancel", reader.uint(4)]);
      else if (type === Frame.SYNCED) this.frames.push(["synced", reader.uint(4)]);
      else if (type === Frame.FLOW) this.frames.push(["flow", reader.uint(4), aux === 1]);
      else if (type === Frame.GOAWAY) {
        const [number, code] = [reader.uint(4), reader.uint(4)];
        this.frames.push(["goaway", flags & 1 ? number : null, code, reader.text(body.subarray(8))]);
      }
    });
  }
}

function callAsListed({ number, name, codec, timeoutMs, priority, metadata, payload, compressed }) {
  const listed = metadata.length ? hexOf(metadata) : null;
  return ["call", number, name, codec + (compressed ? 65_536 : 0), timeoutMs, priority, listed, hexOf(payload)];
}

everyWay(legal(setups), "setup", (vector, feed) => {
  const recorder = new ControlRecorder();
  for (const piece of feed(bytesOf(vector.hex), PING)) recorder.push(piece);
  assert.equal(recorder.frames.length, 2);
  const setup = recorder.frames[0][1];
  assert.deepEqual(setup.codecs, vector.setup.codecs);
  for (const [key, name] of [["capabilities", "capabilities"], ["max_message_bytes", "maxMessageBytes"],
    ["max_concurrent_calls", "maxConcurrentCalls"], ["keepalive_floor_ms", "keepaliveFloorMs"],
    ["idle_limit_ms", "idleLimitMs"], ["inline_max_bytes", "inlineMaxBytes"], ["agent", "agent"], ["name", "name"],
    ["listeners", "listeners"]]) {
    if (vector.setup[key] !== undefined) assert.deepEqual(setup[name], vector.setup[key], key);
  }
});

everyWay(illegal(setups), "setup", (vector, feed) => {
  const recorder = new ControlRecorder();
  refused(vector.close_code, () => feed(bytesOf(vector.hex), PING).forEach((piece) => recorder.push(piece)));
  assert.deepEqual(recorder.frames, []);
});

for (const vector of legal(setups).filter(({ canonical, setup }) => canonical && !setup.name)) {
  test(`setup/${vector.name} is written`, () => {
    const { setup } = vector;
    const written = encodeSetup({
      codecs: setup.codecs, capabilities: setup.capabilities, maxMessageBytes: setup.max_message_bytes,
      maxConcurrentCalls: setup.max_concurrent_calls, keepaliveFloorMs: setup.keepalive_floor_ms,
      idleLimitMs: setup.idle_limit_ms, inlineMaxBytes: setup.inline_max_bytes, agent: setup.agent,
      credentials: Object.keys(setup.credentials).length ? setup.credentials : undefined,
    });
    assert.equal(hexOf(written), vector.hex);
  });
}

test("a SETUP with grease is read like one without", () => {
  const setup = { codecs: ["json"], agent: "x" };
  const body = encodeSetup({ ...setup, grease: 63 }).subarray(8);
  assert.deepEqual(decodeSetup(body), decodeSetup(encodeSetup(setup).subarray(8)));
});

everyWay(legal(controls), "control", (vector, feed) => {
  const recorder = new ControlRecorder();
  for (const before of vector.after) recorder.push(byName.get(before));
  recorder.frames.length = 0;
  for (const piece of feed(bytesOf(vector.hex), PING)) recorder.push(piece);
  const expected = vector.calls.filter(([what]) => what !== "ignored");
  assert.deepEqual(recorder.frames, [...expected.map(rounded), ["ping", 7]]);
});

/** Where a vector's numbers are larger than JavaScript's exact ones, both sides are rounded alike. */
const rounded = (call) => call.map((field) => (typeof field === "number" ? Number(field) : field));

everyWay(illegal(controls), "control", (vector, feed) => {
  const recorder = new ControlRecorder();
  for (const before of vector.after) recorder.push(byName.get(before));
  recorder.frames.length = 0;
  refused(vector.close_code, () => feed(bytesOf(vector.hex), PING).forEach((piece) => recorder.push(piece)));
  assert.deepEqual(recorder.frames, []);
});

for (const vector of legal(controls)) {
  if (!["CALL", "RESPONSE"].includes(vector.frame.type) || vector.frame.compressed) continue;
  test(`control/${vector.name} is written`, () => assert.equal(hexOf(written(vector.frame)), vector.hex));
}

function written({ type, number, name, codec, error, metadata, payload, ...call }) {
  const body = bytesOf(payload);
  if (type === "RESPONSE") return join([encodeResponse(number, codec, body.length, error), body]);
  const fields = { number, timeoutMs: call.timeout_ms, methodId: call.method ?? 0xffff, codec, priority: call.class };
  if (name !== null) fields.method = utf8.encode(name);
  if (metadata) fields.metadata = bytesOf(metadata);
  return join([encodeCall(fields, body.length), body]);
}

// Other substreams.

const substreams = load("substream").filter((vector) => !vector.session && vector.kind !== "CONTROL");

function pushed(vector, feed, spare) {
  const bytes = bytesOf(vector.hex).subarray(vector.head ? 8 : 0);
  const parser = new FrameParser(LEGAL[vector.kind][vector.by], { maxBytes: 4_300_000 });
  const frames = [];
  const onFrame = (frame) => {
    if (frame.type === Frame.CALL) {
      const call = parseCall(frame, null);
      const metadata = call.metadata.length ? hexOf(call.metadata) : null;
      frames.push({ type: "CALL", number: call.number, timeout_ms: call.timeoutMs, name: call.name, codec: call.codec,
        class: call.priority, metadata, payload: hexOf(call.payload), compressed: call.compressed });
    } else if (frame.type === Frame.RESPONSE) {
      const { number, error, codec, payload, compressed } = parseResponse(frame);
      frames.push({ type: "RESPONSE", number, error, codec, payload: hexOf(payload), compressed });
    } else frames.push({ type: "DATA", codec: frame.aux, item: hexOf(frame.body), compressed: !!(frame.flags & 2) });
  };
  for (const piece of feed(bytes, spare)) parser.push(piece, onFrame);
  assert.equal(parser.expected, 0);
  return frames;
}

everyWay(legal(substreams), "substream", (vector, feed) => {
  const expected = vector.frames.map((frame) => ({ ...frame, compressed: frame.compressed ?? false }));
  assert.deepEqual(pushed(vector, feed, GREASE), expected);
});

everyWay(illegal(substreams), "substream", (vector, feed) => {
  refused(vector.close_code, () => pushed(vector, feed, new Uint8Array(0)));
});

for (const vector of legal(substreams)) {
  if (!vector.canonical || !vector.head || vector.frames.some((frame) => frame.compressed)) continue;
  test(`substream/${vector.name} is written`, () => {
    const { kind, class: priority, number } = vector.head;
    const frames = vector.frames.map((frame) =>
      frame.type === "DATA" ? encodeFrame(Frame.DATA, 0, frame.codec, bytesOf(frame.item)) : written(frame));
    assert.equal(hexOf(join([encodeHead(kind, priority, number), ...frames])), vector.hex);
  });
}

// Metadata and errors.

for (const vector of load("metadata")) {
  test(`metadata/${vector.name}`, () => {
    if (vector.close_code !== undefined) return refused(vector.close_code, () => decodeMetadata(bytesOf(vector.hex)));
    const pairs = vector.pairs.map(([key, { text, bytes }]) => [key, text ?? bytesOf(bytes)]);
    assert.deepEqual(decodeMetadata(bytesOf(vector.hex)), pairs);
    assert.equal(hexOf(encodeMetadata(pairs)), vector.hex);
  });
}

const STATUS_NUMBERS = {
  2: "UNKNOWN", 3: "INVALID_ARGUMENT", 5: "NOT_FOUND", 8: "RESOURCE_EXHAUSTED", 12: "UNIMPLEMENTED", 13: "INTERNAL",
};

for (const vector of load("errors")) {
  test(`errors/${vector.name}`, () => {
    if (vector.close_code !== undefined) return refused(vector.close_code, () => decodeError(bytesOf(vector.hex)));
    const error = decodeError(bytesOf(vector.hex));
    const { status, message, notProcessed, retryable, retryAfterMs } = error;
    const expected = vector.error;
    assert.deepEqual([status, message, notProcessed, retryable, retryAfterMs], [STATUS_NUMBERS[expected.code],
      expected.message, expected.not_processed, expected.retryable, expected.retry_after_ms]);
    const details = expected.details.map(([name, hex]) => [name, JSON.parse(Buffer.from(hex, "hex").toString())]);
    assert.deepEqual(error.details, details);
    if (vector.canonical) assert.equal(hexOf(encodeError(error)), vector.hex);
  });
}

test("varints are read and written in all four sizes", () => {
  const written = [
    [0, "00"], [63, "3f"], [64, "4040"], [15_293, "7bbd"], [16_383, "7fff"], [16_384, "80004000"],
    [494_878_333, "9d7f3e7d"], [2 ** 30, "c000000040000000"], [2 ** 53 - 1, "c01fffffffffffff"],
  ];
  for (const [value, hex] of written) {
    const bytes = encodeVarint(value);
    assert.equal(hexOf(bytes), hex);
    assert.equal(new Reader(bytes, "test").varint(), value);
  }
});

// The mux.

/** What a mux makes of `hex`, as the vectors list it. */
function muxed(vector, pieces) {
  const events = [];
  const watched = [];
  const mux = new Mux({
    onSubstream: (substream) => {
      watched.push(substream);
      events.push(["open", substream.id]);
      const { deliver, finish, stopReceived } = substream;
      substream.deliver = (bytes) => {
        const last = events.at(-1);
        if (last?.[0] === "data" && last[1] === substream.id) last[2] += hexOf(bytes);
        else events.push(["data", substream.id, hexOf(bytes)]);
        deliver.call(substream, bytes);
      };
      substream.finish = (how) => {
        events.push(how.error ? ["reset", substream.id, how.error.code] : ["end", substream.id]);
        finish.call(substream, how);
      };
      substream.stopReceived = (code) => {
        events.push(["stop", substream.id, code]);
        stopReceived.call(substream, code);
      };
    },
    onClose: (code, reason) => events.push(["close", code, reason]),
    wake: () => {},
  }, { dialer: vector.role === "dialer" });
  mux.receive(bytesOf(vector.before));
  events.length = 0;
  for (const piece of pieces) mux.receive(piece);
  return events;
}

// This client takes no emulated datagrams, so to it a datagram is a frame of an unknown kind.
const muxVectors = load("mux").filter((vector) => !vector.datagrams);

everyWay(legal(muxVectors), "mux", (vector, feed) => {
  assert.deepEqual(muxed(vector, feed(bytesOf(vector.hex), bytesOf("0400008fed5e0000deadbeef"))), vector.events);
});

everyWay(illegal(muxVectors), "mux", (vector, feed) => {
  refused(vector.close_code, () => muxed(vector, feed(bytesOf(vector.hex), new Uint8Array(0))));
});

test("what one mux writes, the other reads, with credit", async () => {
  const ends = {};
  const make = (name, dialer) => new Mux({
    onSubstream: (substream) => (ends[name] = substream), onClose: () => {}, wake: () => {},
  }, { dialer });
  const [dialer, listener] = [make("atDialer", true), make("atListener", false)];
  const exchange = () => {
    for (let quiet = 0; quiet < 2; ) {
      const [there, back] = [dialer.take(), listener.take()];
      if (there) listener.receive(there);
      if (back) dialer.receive(back);
      quiet = there || back ? 0 : quiet + 1;
    }
  };
  const ours = dialer.open();
  const content = Uint8Array.from({ length: 300_000 }, (_, place) => place % 251);
  ours.write(content.subarray(0, 1), content.subarray(1));
  ours.end();
  exchange();
  const theirs = ends.atListener;
  assert.equal(theirs.id, 2);
  assert.equal(theirs.received, 65_536, "no more than the first window before somebody reads");
  const got = [];
  for (let bytes; (bytes = await theirs.read()); ) {
    got.push(bytes);
    exchange();
  }
  assert.deepEqual(join(got), content);
  theirs.write(u32(7));
  theirs.end();
  exchange();
  assert.deepEqual(await ours.read(), u32(7));
  assert.equal(await ours.read(), null);
});
