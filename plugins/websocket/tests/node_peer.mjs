// What a peer in Node does with the package `ws`, which the tests of test_foreign_node.py tell: what comes of it is
// printed as one line of JSON.
//
//     node node_peer.mjs talk URL      binary messages of all sizes, fragments, pings: each must come back the same
//     node node_peer.mjs offend URL text|large|silent
//     node node_peer.mjs close URL [CODE [REASON]]
//     node node_peer.mjs cut URL       away without a close frame
//     node node_peer.mjs call URL      a session of its own: calls in both directions, by the example's client
//     node node_peer.mjs serve         a server until standard input ends; the path says what it does
//
// WS names the module.

import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";

const { WebSocket, WebSocketServer } = await import(process.env.WS);
const SUBPROTOCOL = "echostream.v1";
const tell = (result) => console.log(JSON.stringify(result));
const digest = (data) => createHash("sha256").update(data).digest("hex");
const told = (code, reason) => ({ code, reason: String(reason) });

async function open(url, options = {}) {
  const socket = new WebSocket(url, SUBPROTOCOL, { perMessageDeflate: true, ...options });
  await once(socket, "open");
  return socket;
}

/** The next bytes that come, however they were cut into messages. */
function receive(socket, size) {
  return new Promise((resolve, reject) => {
    const pieces = [];
    let have = 0;
    const take = (data, isBinary) => {
      if (!isBinary) reject(new Error("a text came"));
      pieces.push(data);
      have += data.length;
      if (have < size) return;
      socket.off("message", take);
      resolve(Buffer.concat(pieces));
    };
    socket.on("message", take);
  });
}

async function talk(url) {
  const socket = await open(url);
  const same = {};
  for (const size of [1, 125, 126, 65535, 65536, 1048576]) {
    const sent = randomBytes(size);
    const back = receive(socket, size);
    socket.send(sent);
    same[size] = digest(await back) === digest(sent);
  }
  const sent = randomBytes(30000);
  const back = receive(socket, sent.length);
  socket.send(sent.subarray(0, 10000), { fin: false });
  socket.send(sent.subarray(10000, 10000), { fin: false });
  socket.ping("in between");
  socket.send(sent.subarray(10000, 20000), { fin: false });
  socket.send(sent.subarray(20000), { fin: true });
  const pong = once(socket, "pong");
  same.fragments = digest(await back) === digest(sent);
  const [payload] = await pong;
  const { protocol, extensions } = socket;
  socket.close(1000, "done");
  tell({ protocol, extensions, same, pong: String(payload), ...told(...(await once(socket, "close"))) });
}

async function offend(url, how) {
  const socket = await open(url);
  if (how === "text") socket.send("a text");
  if (how === "large") socket.send(Buffer.alloc(1048577));
  tell(told(...(await once(socket, "close"))));
}

async function close(url, code, reason) {
  const socket = await open(url);
  const ended = once(socket, "close");
  code === undefined ? socket.close() : socket.close(Number(code), reason);
  tell(told(...(await ended)));
}

async function cut(url) {
  (await open(url)).terminate();
  tell({});
}

async function call(url) {
  const { connect } = await import(process.env.ECHOSTREAM_JS);
  const session = await connect(url, { WebSocket, handlers: { "node.double": (value) => value * 2 } });
  const large = "ä".repeat(500000);
  const results = await Promise.all([
    session.request("echo", { text: "grüße", list: [1, 2.5, null, true] }),
    session.request("echo", large).then((answer) => answer === large),
    session.request("ask_back", 21),
    session.request("no such method").catch((error) => error.status ?? error.name),
    ...Array.from({ length: 50 }, (_, number) => session.request("echo", number)),
  ]);
  session.close();
  const { code, byPeer } = await session.closed;
  tell({ results, code, byPeer });
}

/** What the server does at each path. */
const manners = {
  "/echo": (socket) => socket.on("message", (data) => socket.send(data)),
  "/fragments": (socket) =>
    socket.on("message", (data) => {
      for (let begin = 0; begin < data.length; begin += 1000) {
        socket.send(data.subarray(begin, begin + 1000), { fin: begin + 1000 >= data.length });
      }
    }),
  "/ping": (socket) => {
    socket.on("pong", (data) => socket.send(data));
    socket.ping("are you there?");
  },
  "/text": (socket) => {
    socket.on("close", (code) => (lastCode = code));
    socket.send("a text");
  },
  "/code": (socket) => socket.send(Buffer.from(String(lastCode))),
  "/close": (socket, code) => {
    socket.send(Buffer.from("last words"));
    socket.close(code, "so long");
  },
  "/cut": (socket) => socket.terminate(),
};
let lastCode = 0;

function serve() {
  const server = new WebSocketServer({
    host: "127.0.0.1",
    port: 0,
    perMessageDeflate: true,
    handleProtocols: (offered, { url }) => url !== "/foreign" && offered.has(SUBPROTOCOL) && SUBPROTOCOL,
    verifyClient: ({ req }, answer) => answer(req.url !== "/forbidden", 403),
  });
  server.on("connection", (socket, { url }) => {
    const [path, code] = url.split("-");
    manners[path]?.(socket, Number(code));
  });
  server.on("listening", () => tell({ port: server.address().port }));
  process.stdin.on("end", () => process.exit(0)).resume();
}

const [what, ...rest] = process.argv.slice(2);
await { talk, offend, close, cut, call, serve }[what](...rest);
