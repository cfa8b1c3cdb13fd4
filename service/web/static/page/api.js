/** Requests to the service's API. All addresses are relative to this file, so a path prefix of a proxy is kept. */

import { renewSession } from "../session/renewal.js";
import { person } from "./person.js";
import { text, textOr } from "./texts.js";

const ROOT = new URL("../../", import.meta.url);

/** The address of a route, for example `classify/batch`. */
export const address = (path) => new URL(path, ROOT);

/** An error answer of the API: the fields of its problem document (RFC 9457). */
export class Problem extends Error {
  constructor(document, retryAfterS = 0) {
    super(problemText(document));
    this.document = document;
    this.status = document.status;
    this.kind = kindOf(document);
    this.retryAfterS = retryAfterS;
  }
}

/** The title of a problem in the page's language. */
export const problemTitle = (document) => textOr(`problem.${kindOf(document)}`, document.title ?? text("problem.other"));

/** A problem in words: the title in the page's language, and what was found. */
export function problemText(document) {
  const title = problemTitle(document);
  return document.detail ? `${title}: ${document.detail}` : title;
}

const kindOf = (document) => (document.type ?? "").split(":").pop();

/**
 * The answer of a route. If another sign-in is needed, the person is asked, and the request is repeated.
 *
 * `isBackground`: the page asks by itself; that neither extends the session nor asks the person.
 *
 * @throws {Problem} for a status of 400 and above, and if the service cannot be reached.
 */
export async function request(path, { method = "GET", body, headers = {}, signal, keepalive, isBackground = false } = {}) {
  let answer;
  try {
    answer = await fetch(address(path), {
      method,
      body,
      headers: { ...identity(method), ...(isBackground && { "X-Background-Request": "1" }), ...headers },
      signal,
      keepalive,
      credentials: "same-origin",
      cache: "no-store",
    });
  } catch (error) {
    return lost(error);
  }
  if (answer.ok) return answer;
  const problem = await problemOf(answer);
  if (!isBackground && (await renewSession(problem.kind))) return request(path, { method, body, headers, signal });
  throw problem;
}

/** A connection that was lost is a problem; a request that was cancelled is not. */
function lost(error) {
  throw error.name === "AbortError" ? error : new Problem({ type: "unreachable", status: 0 });
}

/** The JSON document of a route. `data` is sent as JSON. */
export async function json(path, { data, ...options } = {}) {
  if (data !== undefined) {
    options = { method: "POST", ...options, body: JSON.stringify(data) };
    options.headers = { "Content-Type": "application/json", ...options.headers };
  }
  return (await request(path, options)).json();
}

async function problemOf(answer) {
  const retryAfterS = Number(answer.headers.get("Retry-After")) || 0;
  try {
    return new Problem(await answer.json(), retryAfterS);
  } catch {
    return new Problem({ title: answer.statusText, status: answer.status }, retryAfterS);
  }
}

/** Headers of a change: the token against cross-site requests of a signed-in session, or the name given by hand. */
function identity(method) {
  const headers = {};
  const token = document.querySelector('meta[name="csrf-token"]')?.content;
  if (token && method !== "GET") headers["X-CSRF-Token"] = token;
  if (person.isUnverified && person.name) headers["X-Acting-User"] = latin1OfUtf8(person.name);
  return headers;
}

/** A header value carries bytes: the UTF-8 of the name, one character a byte. */
const latin1OfUtf8 = (name) => String.fromCharCode(...new TextEncoder().encode(name));

/**
 * The documents of an NDJSON stream as they arrive.
 *
 * @param {Response} answer
 * @throws {Problem} if the connection is lost before the end.
 */
export async function* ndjson(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const read = () => reader.read().catch(lost);
  let rest = "";
  for (let part = await read(); !part.done; part = await read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) yield JSON.parse(line);
  }
  if (rest.trim()) yield JSON.parse(rest);
}
