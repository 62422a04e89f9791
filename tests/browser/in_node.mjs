// Runs scenarios over TCP, without any browser: node in_node.mjs PORT NAME…; exit status 0 when all have passed.
//
// The mux speaks over any pipe of bytes. Here the pipe is a TCP connection that looks like a WebSocket, so the client's
// own code, mux included, meets the Python kernel also where there is no Chromium.

import { connect as connectTcp } from "node:net";

import { connect } from "../../examples/hello_browser/page/echostream/echostream.js";
import { run, scenarios } from "./scenarios.mjs";

const PREAMBLE = "ESTREAM1";

class TcpSocket {
  bufferedAmount = 0;
  readyState = 0;
  #socket;
  #preamble = Buffer.alloc(0);

  constructor(url) {
    this.#socket = connectTcp({ host: "127.0.0.1", port: Number(new URL(url).port), noDelay: true });
    this.#socket.write(PREAMBLE);
    this.#socket.on("connect", () => this.#turn(1, this.onopen));
    this.#socket.on("data", (data) => this.#received(data));
    this.#socket.on("error", () => {});
    this.#socket.on("close", () => this.#turn(3, this.onclose));
  }

  #turn(state, tell) {
    this.readyState = state;
    tell?.({ code: 1006, reason: "" });
  }

  #received(data) {
    const missing = PREAMBLE.length - this.#preamble.length;
    this.#preamble = Buffer.concat([this.#preamble, data.subarray(0, missing)]);
    // A copy: a WebSocket gives an ArrayBuffer to keep.
    if (data.length > missing) this.onmessage?.({ data: Uint8Array.from(data.subarray(missing)).buffer });
  }

  send(bytes) {
    this.bufferedAmount += bytes.length;
    this.#socket.write(bytes, () => (this.bufferedAmount -= bytes.length));
  }

  close() {
    this.#socket.end();
  }
}

const [port, ...names] = process.argv.slice(2);
if (names.length === 0) {
  console.log(JSON.stringify(Object.keys(scenarios)));
} else {
  for (const name of names) {
    await run(name, connect, `ws://127.0.0.1:${port}/`, { WebSocket: TcpSocket });
    console.log(name);
  }
}
