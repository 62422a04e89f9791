// What a page does with the browser's own WebSocket in test_websocket.py, without any client of ours.

function opened(url, protocols = "echostream.v1") {
  const socket = new WebSocket(url, protocols);
  socket.binaryType = "arraybuffer";
  const closed = new Promise((resolve) => {
    socket.onclose = ({ code, reason, wasClean }) => resolve({ code, reason, wasClean });
  });
  return new Promise((resolve) => {
    socket.onopen = () => resolve({ socket, closed });
    closed.then((end) => resolve({ failed: end }));
  });
}

async function sha256(content) {
  const digest = await crypto.subtle.digest("SHA-256", content);
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Whether a connection comes about, and what was agreed on. */
export async function attempt({ url, protocols }) {
  const { socket, failed, closed } = await opened(url, protocols);
  if (failed) return { failed };
  const { protocol, extensions } = socket;
  socket.close();
  await closed;
  return { protocol, extensions };
}

/** Send `size` bytes in pieces and read as many back; both hashes. */
export async function echo({ url, size, piece }) {
  const { socket, closed } = await opened(url);
  const sent = new Uint8Array(size);
  for (let at = 0; at < size; at += 65_536) crypto.getRandomValues(sent.subarray(at, at + 65_536));
  const received = new Uint8Array(size);
  let at = 0;
  const all = new Promise((resolve) => {
    socket.onmessage = ({ data }) => {
      received.set(new Uint8Array(data), at);
      at += data.byteLength;
      if (at === size) resolve();
    };
  });
  for (let begin = 0; begin < size; begin += piece) socket.send(sent.subarray(begin, begin + piece));
  await all;
  socket.close();
  await closed;
  return { sent: await sha256(sent), received: await sha256(received) };
}

/** Send `message` (a text, or a list of bytes), and wait for the end that the server makes. */
export async function sendAndWait({ url, message }) {
  const { socket, closed } = await opened(url);
  if (message !== undefined) socket.send(typeof message === "string" ? message : Uint8Array.from(message));
  return closed;
}

export async function closeWith({ url, code, reason }) {
  const { socket, closed } = await opened(url);
  socket.close(code, reason);
  return closed;
}
