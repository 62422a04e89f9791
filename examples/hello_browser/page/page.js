// The page: two connections to one server, each kept up for as long as the page is open, and what it shows of them.

import { ConnectFailed, RpcError, connect } from "./echostream/echostream.js";

const CALLS = 200;
const WARM_UP = 20; // not counted: the first calls find cold caches on both sides
const KEEP_ALIVE_MS = 2_000; // so that a server that vanished is noticed within five seconds
const RETRY_MS = [300, 600, 1_200, 2_500, 5_000];

// What the server may call.
const handlers = { "page.language": () => navigator.language };

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** One way to the server, and the part of the page that shows it. */
class Way {
  session = null;
  times = null; // of the last measurement, sorted
  #card;

  /** `address()` tells where to connect, with which options; it may be another place after the server was restarted. */
  constructor(name, address) {
    this.name = name;
    this.address = address;
    this.#card = document.getElementById(name.toLowerCase());
  }

  /** Connect, measure, wait for the end, and begin again: for as long as the page is open. */
  async keepUp() {
    for (let failures = 0; ; ) {
      this.#show(failures ? "disconnected" : "connecting");
      try {
        const [url, options] = await this.address();
        this.session = await connect(url, { handlers, keepAliveMs: KEEP_ALIVE_MS, ...options });
        failures = 0;
        this.#show("connected");
        this.#tell("");
        const closed = this.session.closed;
        await Promise.race([this.measure(), closed]);
        const { code, reason } = await closed;
        const why = reason || (code ? `code ${code}` : "the server has closed it");
        this.#tell(`The connection has ended: ${why}. Connecting again …`);
      } catch (error) {
        if (!(error instanceof RpcError)) console.error(error);
        this.#tell(`${error.message} Trying again …`);
      }
      this.session = null;
      failures++;
      this.#show("disconnected");
      await pause(RETRY_MS[Math.min(failures, RETRY_MS.length) - 1]);
    }
  }

  /** One call after the other, timed. */
  async measure() {
    const session = this.session;
    if (!session) return;
    const times = [];
    try {
      for (let number = -WARM_UP; number < CALLS; number++) {
        const begin = performance.now();
        await session.request("hello.echo", number);
        if (number >= 0) times.push(performance.now() - begin);
      }
    } catch (error) {
      if (session.state === "closed") return; // told by keepUp
      this.#tell(`A call has failed: ${error.message}`);
      return;
    }
    this.times = times.sort((one, other) => one - other);
    draw();
  }

  unavailable(why) {
    this.#show("unavailable");
    this.#tell(why);
  }

  get median() {
    return this.times?.[Math.floor(this.times.length / 2)];
  }

  get p99() {
    return this.times?.[Math.ceil(this.times.length * 0.99) - 1];
  }

  draw(longest) {
    if (!this.times) return;
    const { median, p99 } = this;
    this.#find(".median").textContent = inMilliseconds(median);
    this.#find(".p99").textContent = inMilliseconds(p99);
    this.#find(".count").textContent = this.times.length;
    this.#find(".to-median").style.width = `${(100 * median) / longest}%`;
    this.#find(".to-p99").style.width = `${(100 * p99) / longest}%`;
    const told = `median ${inMilliseconds(median)}, 99 percent within ${inMilliseconds(p99)}`;
    this.#find(".bar").setAttribute("aria-label", told);
  }

  #find(selector) {
    return this.#card.querySelector(selector);
  }

  #show(state) {
    const shown = this.#find(".state");
    if (shown.dataset.state === state) return;
    shown.dataset.state = state;
    shown.textContent = state;
  }

  #tell(problem) {
    const shown = this.#find(".problem");
    if (shown.textContent !== problem) shown.textContent = problem;
    shown.hidden = !problem;
  }
}

function inMilliseconds(ms) {
  return `${ms < 10 ? ms.toFixed(2) : ms.toFixed(0)} ms`;
}

function draw() {
  const longest = Math.max(...ways.map((way) => way.p99 ?? 0));
  for (const way of ways) way.draw(longest);
}

const webSocket = new Way("WebSocket", async () => {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  return [`${scheme}://${location.host}/hello`, {}];
});

// Where WebTransport listens, and by which certificate it is known, the page learns over the WebSocket: a server that
// was started again has a new one.
const webTransport = new Way("WebTransport", async () => {
  if (!webSocket.session) throw new ConnectFailed("The server has not said yet where it listens.");
  const { host, port, path, certificateHash } = await webSocket.session.request("hello.webtransport");
  // Not "localhost": over QUIC Chromium tries the first address of a name only, and that would be ::1.
  const here = location.hostname === "localhost" ? "127.0.0.1" : location.hostname;
  return [`wt://${host ?? here}:${port}${path}`, { certificateHashes: [certificateHash] }];
});

const ways = [webTransport, webSocket];

async function greet(name) {
  const answers = document.getElementById("answers");
  answers.replaceChildren();
  for (const way of ways) {
    const line = document.createElement("li");
    try {
      const greeting = way.session ? await way.session.request("hello.greet", name) : "not connected";
      line.textContent = `${way.name}: ${greeting}`;
    } catch (error) {
      line.textContent = `${way.name}: ${error.message}`;
    }
    answers.append(line);
  }
}

document.getElementById("greeting").addEventListener("submit", () => {
  greet(document.getElementById("name").value);
});

document.getElementById("again").addEventListener("click", async ({ target }) => {
  target.disabled = true;
  for (const way of ways) await way.measure(); // not both at once: they would wait for each other
  target.disabled = false;
});

webSocket.keepUp();
if (!globalThis.WebTransport) {
  const why = isSecureContext
    ? "This browser has no WebTransport. Everything works over WebSocket."
    : "WebTransport works on secure pages only: open this one as http://localhost or over https.";
  webTransport.unavailable(why);
} else {
  while (!webSocket.times) await pause(50); // the one measurement would slow the other
  webTransport.keepUp();
}
