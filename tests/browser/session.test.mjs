// The client's session against a peer made by hand, in memory: what a well-behaved server never does.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { connect } from "../../examples/hello_browser/page/echostream/echostream.js";
import { hashBytes } from "../../examples/hello_browser/page/echostream/connections.js";
import { Mux } from "../../examples/hello_browser/page/echostream/mux.js";
import {
  Frame, FrameParser, Kind, LEGAL, encodeCall, encodeError, encodeFrame, encodeHead, encodeResponse, encodeSetup, join,
  parseCall, parseResponse, u32, utf8,
} from "../../examples/hello_browser/page/echostream/wire.js";

const JSON_1 = { codecs: ["json"], agent: "by hand", inlineMaxBytes: 17_408 };
const turn = () => new Promise((resolve) => setTimeout(resolve, 1));

/** A WebSocket whose other end is in this process. `peers.at(-1)` is the newest one's. */
const peers = [];

class FakeSocket {
  readyState = 0;
  bufferedAmount = 0;

  constructor() {
    this.peer = new HandMade(this);
    peers.push(this.peer);
    queueMicrotask(() => {
      this.readyState = 1;
      this.onopen();
    });
  }

  send(bytes) {
    if (!this.peer.mux.closed) this.peer.mux.receive(bytes.slice());
  }

  close() {
    this.readyState = 3;
  }
}

/** The listener's side, frame by frame. */
class HandMade {
  frames = []; // of the control substream
  opened = []; // substreams that the client opened behind it: {substream, bytes, ended}
  closed = null;

  constructor(socket) {
    this.socket = socket;
    this.mux = new Mux({
      onSubstream: (substream) => this.#watch(substream),
      onClose: (code, reason) => (this.closed = { code, reason }),
      wake: () => queueMicrotask(() => this.#pump()),
    }, { dialer: false });
  }

  #pump() {
    for (let bytes; (bytes = this.mux.take()); ) this.socket.onmessage?.({ data: bytes.slice().buffer });
  }

  async #watch(substream) {
    const record = { substream, bytes: [], ended: false };
    if (substream.control) this.control = substream;
    else this.opened.push(record);
    const parser = new FrameParser(LEGAL.CONTROL, { maxBytes: 100_000, setupFirst: true });
    let left = 8; // of the head
    try {
      for (let bytes; (bytes = await substream.read()); ) {
        record.bytes.push(bytes);
        if (!substream.control) continue;
        parser.push(bytes.subarray(left), (frame) => this.frames.push({ ...frame, body: frame.body.slice() }));
        left = 0;
      }
      record.ended = true;
    } catch (error) {
      record.error = error;
    }
  }

  /** On the control substream. */
  send(...parts) {
    this.control.write(...parts);
    return turn();
  }

  /** On a substream of its own. */
  open(...parts) {
    const substream = this.mux.open();
    substream.write(...parts);
    return substream;
  }

  /** The newest call that came in-line. */
  async call() {
    await turn();
    const names = [];
    return this.frames.filter(({ type }) => type === Frame.CALL).map((frame) => parseCall(frame, names)).at(-1);
  }
}

async function connected(options = {}) {
  const connecting = connect("ws://test/", { WebSocket: FakeSocket, ...options });
  while (!peers.at(-1)?.control) await turn();
  const peer = peers.at(-1);
  peer.send(encodeSetup(JSON_1));
  return { session: await connecting, peer };
}

function response(number, value, codec = 1) {
  const payload = utf8.encode(JSON.stringify(value));
  return join([encodeResponse(number, codec, payload.length), payload]);
}

function incomingCall(number, name, payload = utf8.encode("null"), { codec = 1, timeoutMs = 0 } = {}) {
  const fields = { number, timeoutMs, methodId: 0xffff, method: utf8.encode(name), codec, priority: 2 };
  return join([encodeCall(fields, payload.length), payload]);
}

/** The session ends with `code`, and the peer is told. */
async function ends({ session, peer }, code) {
  const end = await session.closed;
  await turn();
  assert.equal(end.code, code, end.reason);
  assert.equal(peer.closed?.code, code);
  assert.equal(session.state, "closed");
}

test("no SETUP in time: the connection has failed", async () => {
  const before = peers.length;
  await assert.rejects(connect("ws://test/", { WebSocket: FakeSocket, timeoutMs: 30 }), { name: "ConnectFailed" });
  assert.equal(peers.length, before + 1);
  assert.equal(peers.at(-1).closed.code, 4);
});

test("a server that closes before its SETUP: the connection has failed, with its words", async () => {
  const connecting = connect("ws://test/", { WebSocket: FakeSocket });
  while (!peers.at(-1).control) await turn();
  const { socket, mux } = peers.at(-1);
  socket.onmessage({ data: mux.takeClose(5, "who are you?").slice().buffer });
  await assert.rejects(connecting, { name: "ConnectFailed", code: 5, message: /who are you\?/ });
});

test("names are interned: the second call of a method carries a number", async () => {
  const { session, peer } = await connected();
  const answers = [session.request("a"), session.request("a"), session.request("b")];
  await turn();
  const calls = peer.frames.filter(({ type }) => type === Frame.CALL);
  assert.deepEqual(calls.map(({ flags, body }) => [flags, body[8] + 256 * body[9]]), [[1, 0], [0, 0], [1, 1]]);
  assert.deepEqual(calls.map(({ body }) => body[0]), [0, 2, 4]);
  await peer.send(response(4, "b"), response(0, "first"), response(2, "second"));
  assert.deepEqual(await Promise.all(answers), ["first", "second", "b"]);
  session.close();
});

test("a slot is free again with the final frame only, not when the call is given up", async () => {
  const { session, peer } = await connected();
  const short = () => session.request("x", null, { timeoutMs: 5 }).catch((error) => error.status);
  const given = Array.from({ length: 128 }, short);
  const waiting = session.request("y", null, { timeoutMs: 60_000 });
  assert.deepEqual(new Set(await Promise.all(given)), new Set(["DEADLINE_EXCEEDED"]));
  await turn();
  const kinds = (type) => peer.frames.filter((frame) => frame.type === type).length;
  assert.deepEqual([kinds(Frame.CALL), kinds(Frame.CANCEL)], [128, 128]);
  const cancelled = encodeError({ status: "CANCELLED", message: "", details: [] });
  await peer.send(encodeResponse(0, 1, cancelled.length, true), cancelled);
  const call = await peer.call();
  assert.equal(call.name, "y");
  await peer.send(response(call.number, "done"));
  assert.equal(await waiting, "done");
  session.close();
});

test("what waits for a slot can be given up too", async () => {
  const { session, peer } = await connected();
  for (let count = 0; count < 128; count++) session.request("x").catch(() => {});
  await assert.rejects(session.request("y", null, { timeoutMs: 5 }), { status: "DEADLINE_EXCEEDED" });
  await peer.send(response(0, 1), response(2, 1));
  await turn();
  assert.equal((await peer.call()).name, "x", "the call that was given up is not sent");
  session.close();
});

test("every PING is answered by a PONG with its value", async () => {
  const { session, peer } = await connected();
  await peer.send(encodeFrame(Frame.PING, 0, 0, u32(7, 9)), encodeFrame(Frame.PING, 0, 0, u32(8, 0)));
  await turn();
  const pongs = peer.frames.filter(({ type }) => type === Frame.PONG);
  assert.deepEqual(pongs.map(({ body }) => body), [u32(7, 9), u32(8, 0)]);
  session.close();
});

test("a silent peer gets a PING, and is lost when it stays silent", async () => {
  const { session, peer } = await connected({ keepAliveMs: 20 });
  const { code, error } = await session.closed;
  assert.equal(code, 4);
  assert.equal(error.name, "ConnectionLost");
  assert.ok(peer.frames.some(({ type }) => type === Frame.PING));
});

test("a peer that answers its PINGs is kept", async () => {
  const { session, peer } = await connected({ keepAliveMs: 20 });
  for (let count = 0; count < 20; count++) {
    await new Promise((resolve) => setTimeout(resolve, 8));
    const pings = peer.frames.splice(0).filter(({ type }) => type === Frame.PING);
    if (pings.length) await peer.send(...pings.map(({ body }) => encodeFrame(Frame.PONG, 0, 0, body)));
  }
  assert.equal(session.state, "open");
  session.close();
});

// Calls of the peer.

test("a call of the peer is answered once, in-line or on a substream of its own where it is large", async () => {
  const { session, peer } = await connected();
  session.handle("small", (value) => ({ got: value }));
  session.handle("large", () => "x".repeat(20_000));
  await peer.send(incomingCall(1, "small", utf8.encode("[1]")), incomingCall(3, "large"));
  await turn();
  const answers = peer.frames.filter(({ type }) => type === Frame.RESPONSE).map(parseResponse);
  const shown = answers.map(({ number, payload }) => [number, Buffer.from(payload).toString()]);
  assert.deepEqual(shown, [[1, '{"got":[1]}']]);
  const [{ bytes }] = peer.opened;
  const whole = join(bytes);
  assert.deepEqual(whole.subarray(0, 8), encodeHead(Kind.RESPONSE, 2, 3));
  assert.equal(whole.length, 8 + 16 + 20_002);
  session.close();
});

test("a codec that is not known here is answered so that the caller can try another", async () => {
  const connecting = connect("ws://test/", { WebSocket: FakeSocket, handlers: { it: () => 1 } });
  while (!peers.at(-1).control) await turn();
  const peer = peers.at(-1);
  peer.send(encodeSetup({ ...JSON_1, codecs: ["msgpack", "json"] }));
  const session = await connecting;
  await peer.send(incomingCall(1, "it", Uint8Array.of(0xc0)), incomingCall(3, "it", utf8.encode("{"), { codec: 2 }));
  await turn();
  const errors = peer.frames.filter(({ type }) => type === Frame.RESPONSE).map(({ body }) => body[8]);
  assert.deepEqual(errors, [12, 3], "UNIMPLEMENTED, and INVALID_ARGUMENT for what is no JSON");
  assert.equal(session.state, "open");
  session.close();
});

test("more than 128 calls of the peer at once are refused", async () => {
  const { session, peer } = await connected({ handlers: { never: () => new Promise(() => {}) } });
  for (let count = 0; count < 256; count++) await peer.send(incomingCall(1 + 2 * count, "never"));
  const refused = peer.frames.filter(({ type }) => type === Frame.RESPONSE);
  assert.equal(refused.length, 128);
  assert.deepEqual(new Set(refused.map(({ body }) => body[8])), new Set([8]), "RESOURCE_EXHAUSTED");
  assert.equal(session.state, "open");
  session.close();
});

test("a call whose time is over is answered with DEADLINE_EXCEEDED, and its handler is told", async () => {
  let told = null;
  const never = (_, { signal }) => new Promise(() => (signal.onabort = () => (told = signal.reason.status)));
  const { session, peer } = await connected({ handlers: { never } });
  await peer.send(incomingCall(1, "never", utf8.encode("null"), { timeoutMs: 5 }));
  while (!peer.frames.some(({ type }) => type === Frame.RESPONSE)) await turn();
  assert.equal(peer.frames.find(({ type }) => type === Frame.RESPONSE).body[8], 4);
  assert.equal(told, "DEADLINE_EXCEEDED");
  session.close();
});

// Going away.

test("GOAWAY: what is below its number is answered, the rest was not processed, then the client closes", async () => {
  const { session, peer } = await connected();
  const [first, second] = [session.request("a"), session.request("a").catch((error) => error)];
  await turn();
  await peer.send(encodeFrame(Frame.GOAWAY, 0, 0, u32(0, 6)));
  assert.equal(session.state, "draining");
  const late = await session.request("a").catch((error) => error);
  assert.deepEqual([late.status, late.notProcessed], ["UNAVAILABLE", true]);
  await peer.send(encodeFrame(Frame.GOAWAY, 1, 0, u32(2, 6)));
  const { status, notProcessed } = await second;
  assert.deepEqual([status, notProcessed], ["UNAVAILABLE", true]);
  await peer.send(response(0, "answered"));
  assert.equal(await first, "answered");
  await ends({ session, peer }, 0);
});

test("GOAWAY while a handler runs: the peer gets its answer, and closes by itself", async () => {
  let answer;
  const { session, peer } = await connected({ handlers: { slow: () => new Promise((resolve) => (answer = resolve)) } });
  await peer.send(incomingCall(1, "slow"), encodeFrame(Frame.GOAWAY, 0, 0, u32(0, 6)));
  await peer.send(encodeFrame(Frame.GOAWAY, 1, 0, u32(0, 6)));
  answer("done");
  while (!peer.frames.some(({ type }) => type === Frame.RESPONSE)) await turn();
  assert.equal(session.state, "draining");
  assert.equal(peer.closed, null);
  peer.socket.onmessage({ data: peer.mux.takeClose(6, "bye").slice().buffer });
  assert.deepEqual(await session.closed, { code: 6, reason: "bye", byPeer: true, error: null });
});

// Answers that cannot be read.

test("an answer that is no JSON fails its call, and a detail that is none is given as bytes", async () => {
  const { session, peer } = await connected();
  const [broken, failed] = [1, 2].map(() => session.request("a").catch((error) => error));
  await turn();
  const error = encodeError({ status: "ABORTED", message: "no", details: [["Odd", 1], ["Even", 2]] });
  error[error.indexOf("1".charCodeAt(0))] = 0x7b; // "{"
  await peer.send(encodeResponse(0, 1, 1), utf8.encode("{"), encodeResponse(2, 1, error.length, true), error);
  const { status: why, message } = await broken;
  assert.equal(why, "INTERNAL");
  assert.match(message, /cannot be read/);
  const { status, details } = await failed;
  assert.equal(status, "ABORTED");
  assert.deepEqual(details, [["Odd", Uint8Array.of(0x7b)], ["Even", 2]]);
  assert.equal(session.state, "open");
  session.close();
});

test("an error that breaks the rules ends the session, and the call with it", async () => {
  const both = await connected();
  const failed = both.session.request("a").catch((error) => error);
  await turn();
  both.peer.send(encodeResponse(0, 1, 3, true), Uint8Array.of(13, 0, 0));
  assert.equal((await failed).name, "ConnectionLost");
  await ends(both, 2);
});

// Whoever breaks the rules.

const breaches = {
  "an answer to a call that is not open": (peer) => peer.send(response(0, 1)),
  "a call with a number of ours": (peer) => peer.send(incomingCall(2, "x")),
  "two calls with one number": (peer) => peer.send(incomingCall(1, "never"), incomingCall(1, "never")),
  "a codec that SETUP does not list": (peer) => peer.send(incomingCall(1, "never", utf8.encode("1"), { codec: 2 })),
  "a second SETUP": (peer) => peer.send(encodeSetup(JSON_1)),
  "the end of the control substream": (peer) => peer.control.end(),
  "a substream without a whole head": (peer) => peer.open(utf8.encode("abc")).end(),
  "a call without a whole message": (peer) =>
    peer.open(encodeHead(Kind.CALL, 2, 1), incomingCall(1, "x").subarray(0, 20)).end(),
  "a call on the substream of another": (peer) => peer.open(encodeHead(Kind.CALL, 2, 3), incomingCall(1, "x")).end(),
  "an unknown frame that may not be ignored": (peer) => peer.send(encodeFrame(0x10, 0, 0)),
};

for (const [name, breach] of Object.entries(breaches)) {
  test(`${name} ends the session with PROTOCOL`, async () => {
    const both = await connected({ handlers: { never: () => new Promise(() => {}) } });
    breach(both.peer);
    await ends(both, 2);
  });
}

for (const vector of JSON.parse(readFileSync(new URL("../vectors/substream.json", import.meta.url), "utf8"))) {
  if (!vector.session) continue;
  test(`substream/${vector.name} ends the session with its code`, async () => {
    const both = await connected();
    // The vector has a dialer's numbers in mind, for which an odd one is wrong: to us, a dialer, an even one is.
    const head = vector.name === "head-wrong-parity" ? encodeHead(Kind.CALL, 2, 2) : Buffer.from(vector.hex, "hex");
    both.peer.open(Uint8Array.from(head)).end();
    await ends(both, vector.close_code);
  });
}

test("a text message and more than there is credit for end the session", async () => {
  const one = await connected();
  one.peer.socket.onmessage({ data: "hello" });
  await ends(one, 2);
  const other = await connected();
  const data = new Uint8Array(8 + 65_536);
  data.set(u32(65_536 + 0x1100_0000, 1));
  const receive = (bytes) => other.peer.socket.onmessage({ data: bytes.slice().buffer });
  receive(data); // all of the first window, and nobody has read yet
  assert.equal(other.session.state, "open");
  receive(join([u32(1 + 0x100_0000, 1), Uint8Array.of(0)]));
  await ends(other, 3);
});

// Large messages.

test("an answer that is too long fails its call and nothing else", async () => {
  const { session, peer } = await connected();
  const call = session.request("a");
  await turn();
  const substream = peer.open(encodeHead(Kind.RESPONSE, 2, 0), encodeResponse(0, 1, 5_000_000));
  await assert.rejects(call, { status: "RESOURCE_EXHAUSTED" });
  assert.equal(await substream.stopped, 3);
  assert.equal(session.state, "open");
  session.close();
});

test("an answer on a substream is put together, and an answer that is given up fails its call", async () => {
  const { session, peer } = await connected();
  const [whole, broken] = [session.request("a"), session.request("a")];
  await turn();
  const large = "y".repeat(400_000);
  const substream = peer.open(encodeHead(Kind.RESPONSE, 2, 0), response(0, large));
  substream.end();
  assert.equal(await whole, large);
  const reset = peer.open(encodeHead(Kind.RESPONSE, 2, 2), response(2, large).subarray(0, 1_000));
  await turn();
  reset.reset(1);
  await assert.rejects(broken, { status: "UNAVAILABLE" });
  assert.equal(session.state, "open");
  session.close();
});

test("messages that do not fit into the memory for them wait for each other, and none is lost", async () => {
  const { session, peer } = await connected();
  const size = 4_000_000; // four fit into 16 MiB
  const calls = Array.from({ length: 8 }, () => session.request("a"));
  await turn();
  const begun = calls.map((_, place) => {
    const head = join([encodeHead(Kind.RESPONSE, 2, 2 * place), encodeResponse(2 * place, 0, size)]);
    return peer.open(head, new Uint8Array(70_000));
  });
  for (let count = 0; count < 20; count++) await turn();
  const granted = begun.filter((substream) => substream.sent > 65_536);
  assert.equal(granted.length, 4, "the others wait with their first window");
  for (const substream of begun) {
    substream.write(new Uint8Array(size - 70_000));
    substream.end();
  }
  const answers = await Promise.all(calls);
  assert.ok(answers.every((answer) => answer.length === size));
  session.close();
});

test("bytes within a payload or an answer travel as base64 text, as the codec json has them", async () => {
  const { session, peer } = await connected();
  session.handle("bytes", () => Uint8Array.of(0, 1, 255));
  await peer.send(incomingCall(1, "bytes"));
  await turn();
  const [answer] = peer.frames.filter(({ type }) => type === Frame.RESPONSE).map(parseResponse);
  assert.equal(Buffer.from(answer.payload).toString(), '"AAH/"');
  const large = new Uint8Array(100_000).fill(7);
  session.request("put", { data: [Uint8Array.of(0, 1, 255).buffer, large.subarray(0, 3)] }).catch(() => {});
  assert.equal(Buffer.from((await peer.call()).payload).toString(), '{"data":["AAH/","BwcH"]}');
  session.request("put", [large]).catch(() => {});
  while (!peer.opened[0]?.ended) await turn();
  const text = Buffer.from(join(peer.opened[0].bytes)).toString("latin1");
  assert.ok(text.includes(`["${Buffer.from(large).toString("base64")}"]`));
  session.close();
});

test("what JSON has no word for is refused here, and nothing is sent", async () => {
  const { session, peer } = await connected();
  session.handle("odd", () => () => 1);
  const refused = [[() => 1, /a function/], [Symbol("x"), /a symbol/], [{ a: new Float32Array(2) }, /Float32Array/]];
  for (const [value, message] of refused) {
    await assert.rejects(session.request("echo", value), { name: "TypeError", message });
  }
  await peer.send(incomingCall(1, "odd"));
  await turn();
  assert.deepEqual(peer.frames.filter(({ type }) => type === Frame.CALL), []);
  const [answer] = peer.frames.filter(({ type }) => type === Frame.RESPONSE);
  assert.equal(answer.body[8], 13, "INTERNAL");
  session.close();
});

test("hashes of certificates are read in base64 and in hex", () => {
  const bytes = Uint8Array.from({ length: 32 }, (_, place) => place);
  const hex = Buffer.from(bytes).toString("hex");
  const colons = hex.toUpperCase().replace(/..(?=.)/g, "$&:");
  for (const form of [bytes, hex, colons, Buffer.from(bytes).toString("base64")]) {
    assert.deepEqual(hashBytes(form), bytes);
  }
  assert.throws(() => hashBytes("AAAA"), /32 bytes/);
});
