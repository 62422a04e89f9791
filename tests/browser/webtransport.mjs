// What a page does with the browser's own WebTransport in test_webtransport.py, without any client of ours.

const bytes = (text) => new TextEncoder().encode(text);
const text = (content) => new TextDecoder().decode(content);

export function transportTo({ url, hash }) {
  const value = Uint8Array.from(atob(hash), (character) => character.charCodeAt(0));
  return new WebTransport(url.replace("wt:", "https:"), { serverCertificateHashes: [{ algorithm: "sha-256", value }] });
}

async function connected(where) {
  const transport = transportTo(where);
  transport.closed.catch(() => {}); // who wants to know asks again
  await transport.ready;
  return transport;
}

async function readAll(readable) {
  return new Uint8Array(await new Response(readable).arrayBuffer());
}

/** Unlike readAll it fails with the stream's own error. */
async function readToTheEnd(readable) {
  for (const reader = readable.getReader(); !(await reader.read()).done; );
}

async function sha256(content) {
  const digest = await crypto.subtle.digest("SHA-256", content);
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function noise(size) {
  const content = new Uint8Array(size);
  for (let at = 0; at < size; at += 65_536) crypto.getRandomValues(content.subarray(at, at + 65_536));
  return content;
}

/** What a WebTransportError says, as JSON. */
function told(error) {
  return { name: error.name, source: error.source, code: error.streamErrorCode, message: error.message };
}

async function failure(promise) {
  return promise.then(() => "no failure", told);
}

/** Send `content` on a stream of ours, all of it; what comes back. */
async function exchange(transport, content) {
  const { readable, writable } = await transport.createBidirectionalStream();
  const [answer] = await Promise.all([readAll(readable), writeAll(writable, content)]);
  return answer;
}

async function writeAll(writable, content) {
  const writer = writable.getWriter();
  await writer.write(content);
  await writer.close();
}

export async function echo({ message, ...where }) {
  const transport = await connected(where);
  const answer = text(await exchange(transport, bytes(message)));
  transport.close();
  return answer;
}

/** Streams that the server opens: the page reads one to its end and sends it back, in capitals. */
export async function shout({ count, ...where }) {
  const transport = await connected(where);
  const streams = transport.incomingBidirectionalStreams.getReader();
  const shouted = [];
  const running = [];
  for (let left = count; left; left--) {
    const { readable, writable } = (await streams.read()).value;
    running.push((async () => {
      const loud = text(await readAll(readable)).toUpperCase();
      await writeAll(writable, bytes(loud));
      shouted.push(loud);
    })());
  }
  await Promise.all(running);
  transport.close();
  return shouted.sort();
}

/** `count` streams at once, each with content of its own; how many came back as they were sent. */
export async function parallel({ count, size, ...where }) {
  const transport = await connected(where);
  const right = await Promise.all(Array.from({ length: count }, async () => {
    const content = noise(size);
    return (await sha256(await exchange(transport, content))) === (await sha256(content));
  }));
  transport.close();
  return right.filter(Boolean).length;
}

/** Upload `size` bytes, then download what the server sends; both hashes. */
export async function upAndDown({ size, ...where }) {
  const transport = await connected(where);
  const content = noise(size);
  const { readable, writable } = await transport.createBidirectionalStream();
  await writeAll(writable, content);
  const down = await readAll(readable);
  transport.close();
  return { up: await sha256(content), down: await sha256(down), size: down.length };
}

/** Datagrams may be lost: each is sent until its echo is here. */
export async function datagrams({ count, ...where }) {
  const transport = await connected(where);
  const writer = (transport.datagrams.writable ?? transport.datagrams.createWritable()).getWriter();
  const missing = new Set(Array.from({ length: count }, (_, number) => `datagram ${number}`));
  const reader = transport.datagrams.readable.getReader();
  const reading = (async () => {
    while (missing.size) missing.delete(text((await reader.read()).value));
  })();
  while (missing.size) {
    for (const one of missing) await writer.write(bytes(one));
    await Promise.race([reading, new Promise((resolve) => setTimeout(resolve, 50))]);
  }
  const size = transport.datagrams.maxDatagramSize;
  transport.close();
  return size;
}

/** The first datagram that the server sends of its own accord. */
export async function firstDatagram(where) {
  const transport = await connected(where);
  const { value } = await transport.datagrams.readable.getReader().read();
  transport.close();
  return text(value);
}

/** Give up both directions of a stream, with these codes; then use another one. The server ends the connection. */
export async function giveUp({ reset, stop, ...where }) {
  const transport = await connected(where);
  const { readable, writable } = await transport.createBidirectionalStream();
  const writer = writable.getWriter();
  await writer.write(bytes("begun"));
  const reader = readable.getReader();
  await reader.read(); // the echo: the server has the stream
  // Chromium's own form of the constructor, older than the specification's; its codes have eight bits.
  await writer.abort(new WebTransportError({ message: "enough", streamErrorCode: reset }));
  await reader.cancel(new WebTransportError({ message: "enough", streamErrorCode: stop }));
  return text(await exchange(transport, bytes("another")));
}

/** What the page sees when the server gives up both directions. */
export async function givenUp(where) {
  const transport = await connected(where);
  const { readable, writable } = await transport.createBidirectionalStream();
  const writer = writable.getWriter();
  await writer.write(bytes("begun"));
  const reading = await failure(readToTheEnd(readable));
  const writing = await failure(writer.closed);
  const answer = text(await exchange(transport, bytes("another")));
  transport.close();
  return { reading, writing, answer };
}

/** How the end looks from the page: `closed`, a read and a write that were under way, and what is tried afterwards. */
export async function untilClosed(where) {
  const transport = await connected(where);
  const { readable, writable } = await transport.createBidirectionalStream();
  await writable.getWriter().write(bytes("begun"));
  const reading = failure(readToTheEnd(readable));
  const closed = await transport.closed.then(
    ({ closeCode, reason }) => ({ closeCode, reason }),
    (error) => ({ error: told(error) }),
  );
  return { ...closed, reading: await reading, later: await failure(transport.createBidirectionalStream()) };
}

export async function closeWith({ code, reason, ...where }) {
  const transport = await connected(where);
  await exchange(transport, bytes("before"));
  transport.close({ closeCode: code, reason });
  return transport.closed.then((info) => info, (error) => ({ error: told(error) }));
}

/** Write until nothing more is taken for a while; how much was taken. The server reads nothing. */
export async function fill({ size, ...where }) {
  const transport = await connected(where);
  await (await transport.createBidirectionalStream()).writable.getWriter().write(bytes("control")); // always read
  const { writable } = await transport.createBidirectionalStream();
  const writer = writable.getWriter();
  const piece = new Uint8Array(16_384);
  let taken = 0;
  while (taken < size) {
    const late = new Promise((resolve) => setTimeout(resolve, 300, "late"));
    if ((await Promise.race([writer.write(piece), late])) === "late") break;
    taken += piece.length;
  }
  const stuck = new Promise((resolve) => setTimeout(resolve, 5_000, "stuck"));
  const other = await Promise.race([exchange(transport, bytes("small")).then(text), stuck]);
  transport.close();
  return { taken, other };
}

/** Connect, and stay so until the page is left. */
export async function stay(where) {
  globalThis.kept = await connected(where);
}

/** How an attempt to connect fails. */
export async function refused(where) {
  let transport;
  try {
    transport = transportTo(where);
  } catch (error) {
    return { name: error.name, message: error.message };
  }
  transport.closed.catch(() => {});
  return failure(transport.ready);
}
