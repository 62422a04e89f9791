// What the client of examples/hello_browser must do on every transport: run in a page of Chromium over WebSocket and
// WebTransport, and in Node over TCP. The other end is tests/browser/handlers.py. A scenario that fails throws.

const PATIENCE_MS = 10_000;

function check(condition, what) {
  if (!condition) throw new Error(what);
}

function equal(actual, expected, what = "") {
  const [got, wanted] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (got !== wanted) throw new Error(`${what} got ${got?.slice(0, 300)}, expected ${wanted?.slice(0, 300)}`);
}

async function failing(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it should have failed");
}

async function until(condition) {
  for (const end = performance.now() + PATIENCE_MS; !(await condition()); ) {
    check(performance.now() < end, `waited in vain for ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** As in handlers.py. */
function patterned(size) {
  const units = new Uint8Array(size);
  for (let place = 0; place < size; place++) units[place] = 97 + ((place * 7 + Math.floor(place / 26)) % 26);
  return new TextDecoder().decode(units);
}

async function sha256(bytes) {
  const digest = await crypto.subtle.digest("SHA-256", bytes);
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function randomBytes(size) {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}

export const scenarios = {
  async "small calls are answered, in the order of asking or not"({ session }) {
    equal(await session.request("math.add", { a: 2, b: 3 }), 5);
    const sums = await Promise.all(Array.from({ length: 200 }, (_, a) => session.request("math.add", { a, b: 1 })));
    equal(sums, Array.from({ length: 200 }, (_, a) => a + 1));
    for (const value of [null, true, -1.5, "", "é 😀", [], {}, [1, [2, { three: null }]]]) {
      equal(await session.request("echo", value), value);
    }
  },

  async "the peer's SETUP says who it is"({ session }) {
    equal(session.peer.agent.startsWith("echostream-python"), true, session.peer.agent);
    equal(session.peer.name, "house");
    equal(session.state, "open");
    check((await session.ping()) > 0, "a ping takes time");
  },

  async "more than the slots: the rest waits for its turn"({ session }) {
    const slots = session.peer.maxConcurrentCalls;
    const calls = Array.from({ length: slots + 100 }, (_, number) => session.request("echo", number));
    equal((await Promise.all(calls)).length, slots + 100);
  },

  async "a mebibyte each way has the right content"({ session }) {
    const bytes = randomBytes(1_048_576);
    equal(await session.request("hash", bytes), await sha256(bytes));
    const text = await session.request("text", 1_048_576);
    equal(text === patterned(1_048_576), true, "the text");
    equal((await session.request("echo", text)) === text, true, "the echo");
  },

  async "many large calls at once, and small ones in between"({ session }) {
    const large = Array.from({ length: 8 }, async () => {
      const bytes = randomBytes(300_000);
      equal(await session.request("hash", bytes), await sha256(bytes));
    });
    const small = Array.from({ length: 50 }, (_, a) => session.request("math.add", { a, b: 0 }));
    equal((await Promise.all(small)).length, 50);
    await Promise.all(large);
  },

  async "sizes around the in-line limits arrive whole"({ session }) {
    for (const size of [0, 1, 2_040, 2_046, 2_047, 17_400, 17_406, 17_407, 65_500, 65_536, 70_000]) {
      const text = patterned(size);
      equal((await session.request("echo", text)) === text, true, `${size} characters`);
    }
  },

  async "an error arrives with all its fields"({ session }) {
    const error = await failing(session.request("fail"));
    const { name, status, message, notProcessed, retryable, retryAfterMs, details } = error;
    equal([name, status, message, notProcessed, retryable, retryAfterMs, details], ["RpcError", "NOT_FOUND",
      "no such thing: é", false, true, 1500, [["Hint", { try: "another", at: 3 }]]]);
    const internal = await failing(session.request("boom"));
    equal(internal.status, "INTERNAL");
    check(!internal.message.includes("secret"), internal.message);
    const unknown = await failing(session.request("no.such.method"));
    equal([unknown.status, unknown.notProcessed], ["UNIMPLEMENTED", true]);
  },

  async "a call whose time is over fails here and is cancelled there"({ session }) {
    const before = await session.request("cancelled");
    equal((await failing(session.request("wait", 30, { timeoutMs: 40 }))).status, "DEADLINE_EXCEEDED");
    await until(async () => (await session.request("cancelled")) === before + 1);
  },

  async "a call that is given up is cancelled, in-line and on its substream"({ session }) {
    const before = await session.request("cancelled");
    const giveUp = new AbortController();
    const call = session.request("wait", 30, { signal: giveUp.signal });
    setTimeout(() => giveUp.abort(new Error("enough")), 30);
    equal((await failing(call)).message, "enough");
    await until(async () => (await session.request("cancelled")) === before + 1);
    const giveUpLarge = new AbortController();
    const large = session.request("wait", { seconds: 30, padding: patterned(100_000) }, { signal: giveUpLarge.signal });
    setTimeout(() => giveUpLarge.abort(new Error("enough of that")), 60);
    equal((await failing(large)).message, "enough of that");
    await until(async () => (await session.request("cancelled")) === before + 2);
    const atOnce = new AbortController();
    const never = session.request("echo", patterned(500_000), { signal: atOnce.signal });
    atOnce.abort(new Error("at once"));
    equal((await failing(never)).message, "at once");
    equal(await session.request("math.add", { a: 1, b: 1 }), 2);
    equal(session.state, "open");
  },

  async "the server calls the page: small and large, and an unknown method"({ session }) {
    session.handle("page.double", (value) => value * 2);
    session.handle("page.text", (size) => patterned(size));
    session.handle("page.length", ({ text }) => text.length);
    equal(await session.request("ask", { method: "page.double", payload: 21 }), 42);
    equal((await session.request("ask", { method: "page.text", payload: 200_000 })) === patterned(200_000), true);
    equal(await session.request("ask", { method: "page.length", payload: { text: patterned(150_000) } }), 150_000);
    equal((await failing(session.request("ask", { method: "page.none", payload: null }))).status, "INTERNAL");
  },

  async "a handler of the page that is given up hears of it"({ session }) {
    let heard = null;
    session.handle("page.never", (_, { signal }) => {
      signal.onabort = () => (heard = signal.reason.status);
      return new Promise(() => {});
    });
    equal(await session.request("ask_and_give_up", { method: "page.never", payload: null }), "DEADLINE_EXCEEDED");
    await until(() => heard !== null);
    check(["DEADLINE_EXCEEDED", "CANCELLED"].includes(heard), heard);
    const large = { method: "page.never", payload: patterned(100_000) };
    equal(await session.request("ask_and_give_up", large), "DEADLINE_EXCEEDED");
    equal(session.state, "open");
  },

  async "metadata travels"({ session }) {
    equal(await session.request("metadata", null, { metadata: { tenant: "é" } }), [["tenant", "é"]]);
  },

  async "what this client does not take is refused, and the session goes on"({ session }) {
    equal(await session.request("open_stream"), "UNIMPLEMENTED");
    equal(await session.request("flush"), "flushed");
    equal(await session.request("math.add", { a: 1, b: 1 }), 2);
  },

  async "what is too long fails before it is sent"({ session }) {
    const error = await failing(session.request("echo", new Uint8Array(session.peer.maxMessageBytes + 1)));
    equal([error.status, error.notProcessed], ["RESOURCE_EXHAUSTED", true]);
  },

  async "a server that drains answers what runs and takes nothing new"({ session }) {
    const running = session.request("wait", 0.3);
    await session.request("drain_me");
    await until(() => session.state === "draining");
    const late = await failing(session.request("echo", 1));
    equal([late.status, late.notProcessed, late.retryable], ["UNAVAILABLE", true, true]);
    equal(await running, "waited");
    equal((await session.closed).error, null);
    equal(session.state, "closed");
  },

  async "the server closes with a code and a reason"({ session }) {
    const states = [];
    session.onstate = (state) => states.push(state);
    const call = session.request("close_me", { code: 4711, reason: "à bientôt" });
    const error = await failing(call);
    equal([error.name, error.code], ["ConnectionLost", 4711]);
    const { code, reason, byPeer, error: cause } = await session.closed;
    equal([code, reason, byPeer, cause], [4711, "à bientôt", true, null]);
    equal(states, ["closed"]);
    equal((await failing(session.request("math.add", { a: 1, b: 1 }))).notProcessed, true);
  },

  async "the page closes: calls that are open fail"({ session }) {
    const call = failing(session.request("wait", 30));
    session.close(0, "done");
    equal((await call).name, "ConnectionLost");
    const { code, byPeer, error } = await session.closed;
    equal([code, byPeer, error], [0, false, null]);
  },

  async "credentials are not sent without encryption, and nonsense is no URL"({ connectAgain }) {
    equal((await failing(connectAgain("ws://127.0.0.1:1/", { credentials: { token: "x" } }))).name, "ConnectFailed");
    equal((await failing(connectAgain("ftp://127.0.0.1:1/"))).name, "ConnectFailed");
  },
};

/** WebSockets that say when they are gone: a server that ends before that may leave its own end open. */
function tracked(sockets) {
  return class extends WebSocket {
    constructor(...all) {
      super(...all);
      sockets.push(new Promise((resolve) => this.addEventListener("close", resolve)));
    }
  };
}

/** Run one on a session of its own. */
export async function run(name, connect, url, options = {}) {
  const sockets = [];
  const how = globalThis.WebSocket ? { WebSocket: tracked(sockets), ...options } : options;
  const session = await connect(url, how);
  const connectAgain = (other, more) => connect(other, { ...how, ...more });
  try {
    await scenarios[name]({ session, connectAgain });
    return "passed";
  } finally {
    session.close();
    await Promise.all(sockets);
  }
}
