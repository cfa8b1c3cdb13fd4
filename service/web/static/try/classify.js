/** Sends pictures to `POST /classify/batch` and takes the answers as they arrive. */

import { ndjson, Problem, request } from "../page/api.js";
import { text } from "../page/texts.js";
import { zipMembers } from "../page/zip.js";
import { answer, newCell } from "./cells.js";

const PATH = "classify/batch?maps=none&top_k=5";
/** Pictures go in small requests, so that the first answers come while the last pictures are still to be sent. */
const [MOST_PICTURES, MOST_BYTES] = [32, 16 * 2 ** 20];
const MOST_ATTEMPTS = 6;

export const isZip = (file) => /zip/.test(file.type) || /\.zip$/i.test(file.name);

/**
 * Classify loose pictures.
 *
 * @param {object[]} cells waiting ones
 * @param {(cell: object, model?: object) => void} settled called for each cell once it has a result or a problem
 */
export async function classifyPictures(cells, settled, signal) {
  for (const part of parts(cells)) {
    const form = new FormData();
    part.forEach(({ name, picture }) => form.append("images", picture, name));
    const settle = (item) => settleCell(part[item.index], item, settled);
    await failingTogether(part, settled, () => send({ body: form, signal }, settle));
  }
}

/**
 * Classify the pictures of a ZIP, which the service unpacks. Each gets its cell when its answer arrives.
 *
 * @param {object} archive the cell that stands for the file until it is answered
 * @param {(cell: object) => void} added
 * @param {(members: number) => void} expected called with the number of members, before the first answer
 */
export async function classifyZip(archive, { added, expected, settled }, signal) {
  const members = await zipMembers(archive.picture);
  expected(members.size);
  await failingTogether([archive], settled, () =>
    send({ body: archive.picture, headers: { "Content-Type": "application/zip" }, signal }, async (item) => {
      const cell = newCell(item.name ?? "", await unpacked(members.get(item.name)));
      added(cell);
      settleCell(cell, item, settled);
    }),
  );
}

async function unpacked(unpack) {
  try {
    return (await unpack?.()) ?? null;
  } catch {
    return null; // the answer is shown without the picture
  }
}

function settleCell(cell, item, settled) {
  answer(cell, item);
  settled(cell);
}

/** Run `action`. Its failure is the problem of every cell that has no answer yet. */
async function failingTogether(cells, settled, action) {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    for (const cell of cells.filter(({ state }) => state === "waiting")) settleCell(cell, { problem: error.document }, settled);
    if (error.status === 401 || error.status === 403 || error.status === 0) throw error;
  }
}

/** One request. An overloaded service is asked again when it says so. */
async function send(options, settle) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      const stream = await request(PATH, {
        method: "POST",
        ...options,
        headers: { Accept: "application/x-ndjson", ...options.headers },
      });
      return await settleAll(stream, settle);
    } catch (error) {
      if (error.status !== 429 || attempt === MOST_ATTEMPTS) throw error;
      await pause(error.retryAfterS || attempt, options.signal);
    }
  }
}

async function settleAll(stream, settle) {
  let isComplete = false;
  for await (const line of ndjson(stream)) {
    if ("index" in line) await settle(line);
    else isComplete = true; // the last line is the summary
  }
  if (!isComplete) throw new Problem({ title: text("problem.incomplete"), status: 502 });
}

function* parts(cells) {
  let [part, bytes] = [[], 0];
  for (const cell of cells) {
    if (part.length && (part.length === MOST_PICTURES || bytes + cell.picture.size > MOST_BYTES)) {
      yield part;
      [part, bytes] = [[], 0];
    }
    part.push(cell);
    bytes += cell.picture.size;
  }
  if (part.length) yield part;
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

