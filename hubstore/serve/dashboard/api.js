/** Requests to the server: its token, its errors, and the revision of a store that an answer came from. */

const TOKEN = "hubstore-token";
const BUSY_TRIES = 3;
const LONG_TRIES = 60; // of the server's half minutes: what takes longer goes on there, and is kept

const revisions = new Set();
let ask = null;
let asking = null;

/** What the server says is wrong. */
export class ApiError extends Error {
  /**
   * @param {number} status of HTTP; 0 where the server did not answer.
   * @param {string} kind the class of the error on the server.
   */
  constructor(status, kind, message) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.kind = kind;
  }
}

/** Says how to ask the user for a token: a function that gives a promise of one, told whether one was refused. */
export function tokensFrom(prompt) {
  ask = prompt;
}

/** Calls `work` with a store's name and the revision that an answer came from. */
export function onRevision(work) {
  revisions.add(work);
}

/** The path of something of a store. */
export function storePath(store, ...more) {
  return ["api/v1/stores", ...[store, ...more].map(encodeURIComponent)].join("/");
}

/** A path with parameters; lists are repeated, and what is null or empty is left out. */
export function withQuery(path, query = {}) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") words.append(name, String(one));
    }
  }
  const text = words.toString();
  return text ? `${path}?${text}` : path;
}

/** The JSON at a path. */
export async function get(path, query = {}, signal = undefined) {
  return (await send(withQuery(path, query), { signal, headers: { Accept: "application/json" } })).json();
}

/** The JSON at a path, of something that may take the server minutes to compute. */
export async function getLong(path, query, signal) {
  const options = { signal, headers: { Accept: "application/json" }, late: LONG_TRIES };
  return (await send(withQuery(path, query), options)).json();
}

/** The JSON that answers a JSON body. */
export async function post(path, body, signal = undefined) {
  const headers = { Accept: "application/json", "Content-Type": "application/json" };
  return (await send(path, { method: "POST", signal, headers, body: JSON.stringify(body) })).json();
}

/** The JSON that answers a JSON body, of something that may take the server minutes to compute. */
export async function postLong(path, body, signal) {
  const headers = { Accept: "application/json", "Content-Type": "application/json" };
  return (await send(path, { method: "POST", signal, headers, body: JSON.stringify(body), late: LONG_TRIES })).json();
}

/** The JSON that answers a file. */
export async function postFile(path, query, file, signal = undefined) {
  const headers = { Accept: "application/json", "Content-Type": file.type || "application/octet-stream" };
  return (await send(withQuery(path, query), { method: "POST", signal, headers, body: file })).json();
}

/** The bytes at a path, with their type. */
export async function blob(path, query = {}, signal = undefined, options = {}) {
  return (await send(withQuery(path, query), { ...options, signal })).blob();
}

/** A table as an Arrow stream, of something that may take the server minutes to compute. */
export async function arrowLong(path, query, signal) {
  const options = { signal, headers: { Accept: "application/vnd.apache.arrow.stream" }, late: LONG_TRIES };
  return (await send(withQuery(path, query), options)).arrayBuffer();
}

/** The rows of a table, as objects. */
export function records(table) {
  const names = Object.keys(table.columns);
  return Array.from({ length: table.rows }, (_, row) =>
    Object.fromEntries(names.map((name) => [name, table.columns[name][row]])),
  );
}

/** Tries again where the server is busy, and, so many times as `late` says, where it has not finished in time. */
async function send(path, options, busy = BUSY_TRIES, late = options.late ?? 0) {
  const used = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(used ? { Authorization: `Bearer ${used}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: options.cache ?? "no-cache" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "NoAnswer", "No answer came. Is the server still running, and is this machine online?");
  }
  if (answer.status === 401 && ask) {
    await newToken(used);
    return send(path, options, busy, late);
  }
  if (answer.status === 504 && late > 0) return send(path, options, busy, late - 1);
  if (answer.status === 503 && busy > 0) {
    await pause(1000 * Math.min(10, Number(answer.headers.get("Retry-After")) || 1), options.signal);
    return send(path, options, busy - 1, late);
  }
  if (!answer.ok) throw await failed(answer);
  noteRevision(path, answer);
  return answer;
}

/** One prompt at a time: requests that were refused together wait for the same token. */
async function newToken(refused) {
  if (sessionStorage.getItem(TOKEN) !== refused) return; // another request has a new one already
  asking ??= ask(refused !== null).finally(() => (asking = null));
  sessionStorage.setItem(TOKEN, await asking);
}

async function failed(answer) {
  const said = await answer.json().catch(() => null);
  return new ApiError(
    answer.status,
    said?.error?.kind ?? "HTTPError",
    said?.error?.message ?? `The server answered ${answer.status}.`,
  );
}

function noteRevision(path, answer) {
  const revision = answer.headers.get("Hubstore-Revision");
  const store = /^api\/v1\/stores\/([^/?]+)/.exec(path)?.[1];
  if (revision && store) for (const work of revisions) work(decodeURIComponent(store), revision);
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("given up", "AbortError"));
    });
  });
}
