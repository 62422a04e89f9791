// The mux: substreams over one pipe, for transports that have none of their own. The rules stand in docs/wire/mux.md.
//
// Bytes in by `receive`, bytes out by `take`; the socket is somebody else's. Credit is given when the reader takes
// bytes from a substream, never on receipt, so what nobody reads holds at most one window.

import { CloseCode, NOTHING, ProtocolError, SubstreamReset, join, u32, utf8, viewOf } from "./wire.js";

export const WINDOW_BYTES = 65_536; // the first credit of a substream, and the largest body of a frame
const MAX_WINDOW_BYTES = 1_048_576;
const MAX_STREAMS = 1_024; // of the peer's, open at once
const FRAGMENT_BYTES = 16_384; // so that a small call waits no longer than this takes
const TAKE_BYTES = 65_536;
const MAX_REASON_BYTES = 1_024;
const MAX_ORDERS = 43_690; // refusals that nobody reads: 1 MiB of them ends the connection

const [DATA, CREDIT, RESET, STOP, CLOSE, DATAGRAM] = [1, 2, 3, 4, 5, 6];
const [OPEN, END, IGNORABLE] = [0x10, 0x20, 0x80];
const ORDER_BYTES = { [CREDIT]: [8, 8], [RESET]: [4, 4], [STOP]: [4, 4], [CLOSE]: [4, 4 + MAX_REASON_BYTES] };

function encode(type, stream, ...body) {
  const size = body.reduce((sum, part) => sum + part.length, 0);
  return join([u32(size + type * 0x100_0000, stream), ...body]);
}

/** One substream. `read`, `write`, `end`, `reset`, `stop` and `stopped` are what both transports offer. */
class MuxSubstream {
  #mux;
  #inbox = [];
  #wake = () => {};
  #stoppedBy;
  // the peer's direction
  finished = null; // {} after END, {error} after RESET or the connection's end
  stoppedWith = null; // our code, when we read no more
  received = 0;
  consumed = 0;
  granted = WINDOW_BYTES;
  window = WINDOW_BYTES;
  // ours
  id = null; // given with the first frame
  queue = [];
  ending = false;
  over = false; // END or RESET has gone
  sent = 0;
  limit = WINDOW_BYTES;
  waiting = false; // in the mux's line

  constructor(mux, { id = null, control = false }) {
    this.#mux = mux;
    this.id = id;
    this.control = control;
    if (control) this.limit = this.granted = Infinity; // exempt from credit, in both directions
    /** Resolves with the code when the peer no longer reads what we write. */
    this.stopped = new Promise((resolve) => (this.#stoppedBy = resolve));
  }

  /** The next bytes; null at the end of the peer's direction. Throws SubstreamReset, or what ended the connection. */
  async read() {
    while (!this.#inbox.length && !this.finished) await new Promise((resolve) => (this.#wake = resolve));
    if (this.stoppedWith !== null) throw new SubstreamReset(this.stoppedWith);
    const bytes = this.#inbox.shift();
    if (!bytes && this.finished.error) throw this.finished.error;
    if (!bytes) return null;
    this.consumed += bytes.length;
    this.#mux.consumed(this);
    return bytes;
  }

  write(...chunks) {
    if (this.over) return;
    this.queue.push(...chunks.filter((chunk) => chunk.length));
    this.#mux.line(this);
  }

  end() {
    this.ending = true;
    this.#mux.line(this);
  }

  /** Give up our direction: what is queued is dropped. */
  reset(code) {
    if (!this.over) this.#mux.giveUp(this, RESET, code);
  }

  /** Read no more: what still arrives is dropped. */
  stop(code) {
    if (!this.finished && this.stoppedWith === null) this.#mux.giveUp(this, STOP, code);
  }

  get sendable() {
    if (this.over) return false;
    return this.queue.length ? this.sent < this.limit : this.ending;
  }

  // What the mux calls.

  deliver(bytes) {
    this.received += bytes.length;
    if (this.stoppedWith !== null) return;
    this.#inbox.push(bytes);
    this.#wake();
  }

  /** What has arrived before the connection's end can still be read; before a RESET it may be incomplete. */
  finish(finished) {
    this.finished ??= finished;
    if (finished.error instanceof SubstreamReset) this.dropInbox();
    this.#wake();
  }

  dropInbox() {
    this.#inbox.length = 0;
  }

  stopReceived(code) {
    this.#stoppedBy(code);
    this.reset(code);
  }

  /** Cut a frame from the queue. */
  fragment() {
    const most = Math.min(this.control ? WINDOW_BYTES : FRAGMENT_BYTES, this.limit - this.sent);
    const parts = [];
    let size = 0;
    while (size < most && this.queue.length) {
      const chunk = this.queue[0];
      const part = chunk.subarray(0, most - size);
      if (part.length === chunk.length) this.queue.shift();
      else this.queue[0] = chunk.subarray(part.length);
      parts.push(part);
      size += part.length;
    }
    this.sent += size;
    this.over = this.ending && !this.queue.length;
    return [parts, this.over];
  }
}

/** Both halves of the mux on one side of a connection. */
export class Mux {
  #sink;
  #parity;
  #live = new Map();
  #control = null;
  #nextLocal;
  #nextPeer;
  #peerLive = 0;
  #line = [];
  #orders = [];
  #creditDue = new Set();
  #held = NOTHING; // a header or an order that has arrived in part
  #target = null; // whose DATA body is coming; null: it is dropped
  #left = 0; // of that body
  #ends = false; // what it ends
  closed = false;

  /** `sink`: `onSubstream(substream)`, `onClose(code, reason)`, and `wake()` when there is something to `take`. */
  constructor(sink, { dialer = true } = {}) {
    this.#sink = sink;
    this.#parity = dialer ? 0 : 1;
    this.#nextLocal = dialer ? 2 : 1;
    this.#nextPeer = dialer ? 1 : 2;
  }

  /** A substream of ours; the first of a dialer is the control substream. */
  open({ control = false } = {}) {
    const substream = new MuxSubstream(this, { control });
    if (control) this.#control = substream;
    return substream;
  }

  /** Up to about 64 KiB to send: orders first, then the control substream, then the others in turn. Null: nothing. */
  take() {
    if (this.closed) return null;
    const parts = this.#orders;
    this.#orders = [];
    for (const substream of this.#creditDue) parts.push(this.#credit(substream));
    this.#creditDue.clear();
    let size = 0;
    while (size < TAKE_BYTES && this.#line.length) {
      const substream = this.#next();
      size += this.#frame(substream, parts);
      substream.waiting = false;
      this.line(substream);
    }
    return parts.length ? join(parts) : null;
  }

  /** The last bytes of all: what the control substream still has, and CLOSE. */
  takeClose(code, reason) {
    const parts = this.#orders;
    if (!this.closed && this.#control) while (this.#control.sendable) this.#frame(this.#control, parts);
    // Cut at 1,024 bytes; a character that this cuts in two is shown as unreadable, which is allowed.
    parts.push(encode(CLOSE, 0, u32(code), utf8.encode(reason).subarray(0, MAX_REASON_BYTES)));
    this.closed = true;
    return join(parts);
  }

  /** The connection is gone: every read fails with `error`. */
  fail(error) {
    this.closed = true;
    for (const substream of [...this.#live.values(), ...this.#line, this.#control]) substream?.finish({ error });
    this.#live.clear();
  }

  /** Take what has arrived. Throws ProtocolError, after which nothing more may be fed. */
  receive(bytes) {
    let rest = bytes;
    while (rest.length && !this.closed) {
      if (this.#left) {
        const part = rest.subarray(0, this.#left);
        rest = rest.subarray(part.length);
        this.#body(part);
      } else {
        const missing = this.#missing();
        this.#held = join([this.#held, rest.subarray(0, missing)]);
        rest = rest.subarray(missing);
        if (!this.#missing()) this.#frameReceived();
      }
    }
  }

  /** Bytes that `#held` still needs to be a header, or an order with its body. */
  #missing() {
    if (this.#held.length < 8) return 8 - this.#held.length;
    const head = viewOf(this.#held).getUint32(0, true);
    const [kind, size] = [(head >>> 24) & 0x0f, head & 0xff_ffff];
    if (size > WINDOW_BYTES) throw new ProtocolError(`a mux frame of ${size} bytes`, CloseCode.LIMIT);
    if (!(kind in ORDER_BYTES)) return 0; // the body of DATA is handed on as it comes, one to skip is not kept
    const [least, most] = ORDER_BYTES[kind];
    if (size < least || size > most) throw new ProtocolError(`a mux frame of kind ${kind} with ${size} bytes`);
    return 8 + size - this.#held.length;
  }

  #frameReceived() {
    const view = viewOf(this.#held);
    const head = view.getUint32(0, true);
    const number = view.getUint32(4, true);
    const [type, size] = [head >>> 24, head & 0xff_ffff];
    const kind = type & 0x0f;
    const body = this.#held.subarray(8);
    this.#held = NOTHING;
    const known = kind === DATA || kind in ORDER_BYTES;
    // Datagrams are not agreed on: our SETUP does not offer to take them.
    const wrong = kind === DATAGRAM || (known ? type & (kind === DATA ? 0xc0 : 0xf0) : !(type & IGNORABLE));
    if (wrong) throw new ProtocolError(`a mux frame of the type ${type}, which is not known or not allowed`);
    if (known && kind !== DATA) return this.#order(kind, number, body);
    this.#target = kind === DATA ? this.#targetOf(type, number, size) : null;
    this.#ends = kind === DATA && !!(type & END);
    this.#left = size;
    if (!size) this.#body(NOTHING);
  }

  #body(part) {
    this.#left -= part.length;
    const substream = this.#target;
    if (!substream) return;
    if (part.length) substream.deliver(part);
    if (!this.#left && this.#ends) this.#finished(substream, {});
  }

  /** The substream that a DATA frame is for, opened if need be; null: drop it. */
  #targetOf(type, number, size) {
    if (!size && !(type & (OPEN | END))) throw new ProtocolError(`an empty DATA frame on substream ${number}`);
    const substream = type & OPEN ? this.#opened(number) : this.#known(number);
    if (substream?.finished) throw new ProtocolError(`DATA on substream ${number} after its end`);
    if (substream && substream.received + size > substream.granted) {
      throw new ProtocolError(`more on substream ${number} than there was credit for`, CloseCode.LIMIT);
    }
    return substream;
  }

  #opened(number) {
    const control = number === 0 && this.#parity === 1 && !this.#control;
    if (!control && number !== this.#nextPeer) {
      throw new ProtocolError(`substream ${number} was opened where ${this.#nextPeer} is the next`);
    }
    if (!control) this.#nextPeer += 2;
    if (!control && this.#peerLive >= MAX_STREAMS) {
      this.#sendOrder(encode(RESET, number, u32(CloseCode.REFUSED)));
      this.#sendOrder(encode(STOP, number, u32(CloseCode.REFUSED)));
      return null;
    }
    const substream = new MuxSubstream(this, { id: number, control });
    if (control) this.#control = substream;
    else this.#peerLive++;
    this.#live.set(number, substream);
    this.#sink.onSubstream(substream);
    return substream;
  }

  /** A substream that is there; null when it is gone. One that never was is the peer's mistake. */
  #known(number) {
    const ours = number % 2 === this.#parity;
    const next = ours ? this.#nextLocal : this.#nextPeer;
    const seen = number === 0 ? this.#control?.id === 0 : number < next;
    if (!seen) throw new ProtocolError(`a frame for substream ${number}, which was never opened`);
    return this.#live.get(number) ?? null;
  }

  #order(kind, number, body) {
    const value = viewOf(body).getUint32(0, true);
    if (kind === CLOSE) {
      if (number) throw new ProtocolError("CLOSE concerns the connection, not a substream");
      this.closed = true;
      return this.#sink.onClose(value, new TextDecoder().decode(body.subarray(4)));
    }
    const substream = this.#known(number);
    if (!substream) return;
    if (kind === STOP) substream.stopReceived(value);
    else if (kind === CREDIT) {
      substream.limit = Math.max(substream.limit, Number(viewOf(body).getBigUint64(0, true)));
      this.line(substream);
    } else if (substream.finished) throw new ProtocolError(`RESET on substream ${number} after its end`);
    else this.#finished(substream, { error: new SubstreamReset(value) });
  }

  #finished(substream, how) {
    substream.finish(how);
    this.#forgetIfGone(substream);
  }

  #forgetIfGone(substream) {
    if (!substream.finished || !substream.over || !this.#live.delete(substream.id)) return;
    this.#creditDue.delete(substream);
    if (substream.id % 2 !== this.#parity) this.#peerLive--;
  }

  // What substreams call.

  /** Put a substream that has something to send where `take` finds it. */
  line(substream) {
    if (substream.waiting || !substream.sendable || this.closed) return;
    substream.waiting = true;
    this.#line.push(substream);
    this.#sink.wake();
  }

  giveUp(substream, kind, code) {
    if (kind === RESET) {
      substream.over = true;
      substream.queue.length = 0;
    } else {
      substream.stoppedWith = code;
      substream.dropInbox();
    }
    if (substream.id === null) return substream.finish({ error: new SubstreamReset(code) }); // the peer never knew it
    this.#sendOrder(encode(kind, substream.id, u32(code)));
    this.#forgetIfGone(substream);
  }

  /** Credit is due by half windows; a window that is used up quickly doubles. */
  consumed(substream) {
    const unused = substream.granted - substream.consumed;
    if (substream.control || substream.finished || unused > substream.window / 2) return;
    substream.window = Math.min(2 * substream.window, MAX_WINDOW_BYTES);
    substream.granted = substream.consumed + substream.window;
    this.#creditDue.add(substream);
    this.#sink.wake();
  }

  #credit(substream) {
    const limit = new Uint8Array(8);
    viewOf(limit).setBigUint64(0, BigInt(substream.granted), true);
    return encode(CREDIT, substream.id, limit);
  }

  #next() {
    const place = this.#line.findIndex((substream) => substream.control);
    return this.#line.splice(Math.max(place, 0), 1)[0];
  }

  #frame(substream, parts) {
    if (!substream.sendable) return 0;
    const opens = substream.id === null;
    if (opens) {
      substream.id = substream.control ? 0 : this.#nextLocal;
      if (!substream.control) this.#nextLocal += 2;
      this.#live.set(substream.id, substream);
    }
    const [body, ends] = substream.fragment();
    const frame = encode(DATA | (opens ? OPEN : 0) | (ends ? END : 0), substream.id, ...body);
    parts.push(frame);
    if (ends) this.#forgetIfGone(substream);
    return frame.length;
  }

  #sendOrder(order) {
    this.#orders.push(order);
    if (this.#orders.length > MAX_ORDERS) {
      throw new ProtocolError("the peer opens and stops substreams without reading the answers", CloseCode.LIMIT);
    }
    this.#sink.wake();
  }
}
