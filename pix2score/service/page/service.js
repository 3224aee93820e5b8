/** The service: its addresses, its patience, and what its errors are called in plain words. */

import { size } from "./dom.js";

const WAITS = 6; // times that a service is asked again that says to come later
const LONGEST_WAIT_S = 60;

const WORDS = {
  BUSY: "The service is busy. Try again in a moment.",
  CANCELLED: "Cancelled.",
  CORRUPT: "This picture is damaged and cannot be read.",
  CRASHED: "Reading this picture failed; the file may be damaged.",
  EMPTY: "This file is empty.",
  NONFINITE: "The model has no answer for this picture.",
  NOT_READY: "The service is still loading its model. Try again in a moment.",
  OFFLINE: "The service does not answer. Is it running?",
  TIMEOUT: "This took longer than the service allows.",
  TOO_LARGE: "This picture is too large.",
  TRUNCATED: "The end of this picture is missing.",
  UNREADABLE: "This browser cannot read the file: it may be a folder, or it was moved.",
  UNSUPPORTED: "This is no picture of a kind that the model reads.",
};
const LASTING = new Set(["CORRUPT", "EMPTY", "TOO_LARGE", "TRUNCATED", "UNREADABLE", "UNSUPPORTED"]);
const LATER = { 429: "The service is busy", 503: "The service is loading its model" };
const BY_STATUS = { 413: "TOO_LARGE", 415: "UNSUPPORTED", 429: "BUSY", 503: "NOT_READY", 504: "TIMEOUT" };

/**
 * Why there is no answer: `code` for programs, `words` for people, `detail` as the service says it;
 * `isLasting`: the same file would have none again.
 */
export class Failure extends Error {
  constructor(code, detail = "") {
    super(`${code}: ${detail}`);
    this.code = code;
    this.detail = detail;
    this.isLasting = LASTING.has(code);
    this.words = WORDS[code] ?? "The service has no answer for this.";
  }
}

/** At most `limit` pieces of work at a time, in the order in which they came. */
export class Turns {
  #free;
  #waiting = [];

  constructor(limit) {
    this.#free = limit;
  }

  /** What `work` gives, when it is its turn. */
  async take(work) {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free += 1;
    }
  }
}

/** Heads, version and limits of the model that answers. `told`: see `ask`. */
export const describe = async (told = {}) => (await ask("model", told)).body;

/** A picture's answers by head. `told`: see `ask`. Gives `{answer, body, text}`. */
export async function predict(file, told = {}) {
  const { body, text } = await ask("predict", { picture: file, ...told });
  return { answer: answerOf(body), body, text };
}

/** Where `head` looks in a picture, as the address of an image. */
export async function where(file, head, told = {}) {
  const { body } = await ask(`predict?where=${encodeURIComponent(head)}`, { picture: file, ...told });
  const answer = answerOf(body);
  if (!answer.where?.[head]) throw new Failure("NO_MAP", answer.where_error ?? "");
  return answer.where[head];
}

/** The pictures of the catalog most like a file. */
export const similarTo = async (file, told = {}) => (await ask("similar", { picture: file, ...told })).body;

/** The pictures of the catalog most like one of its own. */
export async function similarOf({ illust_id: id, page }, told = {}) {
  return (await ask(`similar?id=${encodeURIComponent(id)}&page=${page}`, told)).body;
}

/** Raise `Failure` where a file is not worth sending. */
export async function check(file, limits) {
  const most = Math.min(limits?.image_bytes ?? Infinity, limits?.body_bytes ?? Infinity);
  if (file.size > most) {
    throw new Failure("TOO_LARGE", `${size(file.size)}; this service takes up to ${size(most)}`);
  }
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Failure("UNREADABLE");
  }
}

function answerOf(body) {
  const answer = body.answers?.[0] ?? body;
  if (answer.error) throw new Failure(answer.error.code, answer.error.detail);
  return answer;
}

/**
 * One question: `{body, text}`, or `Failure`. A service that is busy or loading is asked again when it said.
 * `picture`: a file to send; `signal` ends it; `sent(share)` and `waits(words)` tell how it goes.
 */
async function ask(address, { picture = null, signal = null, sent = null, waits = null } = {}) {
  for (let tries = 0; ; tries += 1) {
    const reply = await once(address, picture, signal, sent);
    if (!(reply.status in LATER) || tries === WAITS) return opened(reply);
    const seconds = Math.min(reply.retryAfter || 2 ** tries, LONGEST_WAIT_S);
    await pause(seconds, signal, (left) => waits?.(`${LATER[reply.status]}; asked again in ${left} s …`));
  }
}

function opened({ status, text }) {
  let body = null;
  try {
    body = parse(text);
  } catch {
    // Whatever stands between page and service answers in HTML.
  }
  if (status < 400 && body) return { body, text };
  const error = body?.answers?.[0]?.error ?? body?.error ?? {};
  throw new Failure(error.code in WORDS ? error.code : BY_STATUS[status] ?? error.code ?? `HTTP ${status}`,
    error.detail ?? "");
}

/** XMLHttpRequest, since `fetch` does not say how much of a picture has been sent. */
function once(address, picture, signal, sent) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(new Failure("CANCELLED"));
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    signal?.addEventListener("abort", stop);
    request.open(picture ? "POST" : "GET", address);
    if (sent) request.upload.addEventListener("progress", (at) => sent(at.total ? at.loaded / at.total : 0));
    request.addEventListener("load", () => resolve({
      status: request.status,
      text: request.responseText,
      retryAfter: Number(request.getResponseHeader("Retry-After")),
    }));
    request.addEventListener("error", () => reject(new Failure("OFFLINE")));
    request.addEventListener("abort", () => reject(new Failure("CANCELLED")));
    request.addEventListener("loadend", () => signal?.removeEventListener("abort", stop));
    request.send(picture ? formOf(picture) : null);
  });
}

function formOf(picture) {
  const form = new FormData();
  form.append("image", picture, picture.name);
  return form;
}

async function pause(seconds, signal, tell) {
  for (let left = Math.ceil(seconds); left > 0; left -= 1) {
    tell(left);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    if (signal?.aborted) throw new Failure("CANCELLED");
  }
}

/** JSON in which whole numbers too large for JavaScript, as ids may be, are kept as text. */
const parse = (text) => JSON.parse(text, (_key, value, context) =>
  typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "")
    ? context.source : value);
