/** Adds pictures to the specimen: in small requests, so that the first cells are seen while others are sent. */

import { address, json, Problem, problemText, problemTitle } from "../page/api.js";
import { byId, element } from "../page/element.js";
import { text } from "../page/texts.js";
import { Notices } from "./notices.js";
import { route } from "./specimen.js";

const [MOST_PICTURES, MOST_BYTES] = [32, 16 * 2 ** 20];
const notices = new Notices(byId("problems"));
const isZip = (file) => /zip/.test(file.type) || /\.zip$/i.test(file.name);

/**
 * Add files to the specimen. Those that cannot be added are listed with the reason.
 *
 * @param {(answer: object) => void} added called with each answer
 * @param {(words: string) => void} progress
 */
export async function addFiles(files, added, progress) {
  let done = 0;
  for (const part of parts(files)) {
    progress(text("review.adding", { done, count: files.length }));
    await addPart(part, added);
    done += part.length;
  }
  progress("");
}

async function addPart(part, added) {
  try {
    const answer = await json(route("/cells"), { method: "POST", ...body(part) });
    added(answer);
    for (const { name, problem, warning, cell } of answer.items) {
      if (problem) notices.add(problemTitle(problem), name ?? part[0].name, problemText(problem));
      if (warning) notices.add(text("review.elsewhere.title"), name ?? part[0].name, ...elsewhere(cell, warning));
    }
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    for (const { name } of part) notices.add(problemTitle(error.document), name, error.message);
  }
}

function body(part) {
  if (isZip(part[0])) return { body: part[0], headers: { "Content-Type": "application/zip" } };
  const form = new FormData();
  for (const file of part) form.append("images", file, file.name);
  return { body: form };
}

function* parts(files) {
  let [part, bytes] = [[], 0];
  for (const file of files) {
    const isFull = part.length === MOST_PICTURES || bytes + file.size > MOST_BYTES || isZip(file) || isZip(part[0] ?? file);
    if (part.length && isFull) {
      yield part;
      [part, bytes] = [[], 0];
    }
    part.push(file);
    bytes += file.size;
  }
  if (part.length) yield part;
}

/** The warning that other patients' specimens have the picture too, with links to them. */
function elsewhere({ place }, warning) {
  const links = (warning.match(/\b[0-9a-f]{32}\b/g) ?? []).flatMap((id) => [" ", element("a", { href: address(`lab/${id}`) }, text("review.elsewhere.open"))]);
  return [text("review.elsewhere", { place }), ...links];
}

/** Forget the problems of earlier files. */
export const clearProblems = () => notices.clear();
