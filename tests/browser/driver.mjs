// One Chromium for many tests: node driver.mjs MODULES CHROMIUM FOLDER
//
// Reads commands as lines of JSON and answers each with a line, in any order: {"id", "result"} or {"id", "error"}.
// Ends, and the browser with it, when its standard input ends: so nothing is left when the tests are killed.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [modules, executablePath, folder] = process.argv.slice(2);
const { chromium } = await import(pathToFileURL(`${modules}/playwright-core/index.mjs`));

const browser = await chromium.launch({
  executablePath,
  headless: true,
  args: ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-proxy-server"],
  chromiumSandbox: false, // containers have no namespaces to spare, and every page is ours
  downloadsPath: folder,
  tracesDir: folder,
  timeout: 30_000,
});
const pages = new Map();

const commands = {
  async version() {
    return browser.version();
  },

  /** A new page at `url`, with a profile of its own. What it writes is kept. `trusting`: any certificate will do. */
  async open({ url, page, dark = false, trusting = false, script }) {
    const viewport = { width: 1100, height: 900 };
    const colorScheme = dark ? "dark" : "light";
    const context = await browser.newContext({ viewport, colorScheme, ignoreHTTPSErrors: trusting, locale: "en-GB" });
    const made = await context.newPage();
    const log = [];
    made.on("console", (message) => log.push({ type: message.type(), text: message.text() }));
    made.on("pageerror", (error) => log.push({ type: "pageerror", text: String(error.stack ?? error) }));
    pages.set(page, { made, log });
    if (script) await made.addInitScript(script);
    await made.goto(url, { timeout: 10_000 });
  },

  /** `body` is the body of an async function of `argument`, run in the page; its value must be JSON. */
  async evaluate({ page, body, argument, timeoutMs }) {
    const running = pages.get(page).made.evaluate(
      ([source, value]) => new (async () => {}).constructor("argument", source)(value), [body, argument],
    );
    return withTimeout(running, timeoutMs);
  },

  async log({ page }) {
    return pages.get(page).log;
  },

  async screenshot({ page, path }) {
    await pages.get(page).made.screenshot({ path, fullPage: true, timeout: 10_000 });
  },

  async close({ page }) {
    const { made } = pages.get(page);
    pages.delete(page);
    await withTimeout(made.context().close(), 5_000);
  },
};

async function withTimeout(promise, timeoutMs) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no result in ${timeoutMs} ms`)), timeoutMs);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function obey({ id, command, ...options }) {
  try {
    return { id, result: (await commands[command](options)) ?? null };
  } catch (error) {
    return { id, error: String(error?.message ?? error) };
  }
}

const lines = createInterface({ input: process.stdin });
lines.on("line", async (line) => process.stdout.write(`${JSON.stringify(await obey(JSON.parse(line)))}\n`));
lines.on("close", async () => {
  await withTimeout(browser.close(), 5_000).catch(() => {});
  process.exit(0);
});
browser.on("disconnected", () => process.exit(1));
console.log(JSON.stringify({ id: 0, result: browser.version() }));
