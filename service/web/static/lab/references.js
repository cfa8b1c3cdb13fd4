/** Reference cells beside a cell: pictures of the suggested class and of the one that the person considers. */

import { json, Problem, request } from "../page/api.js";
import { byId, element } from "../page/element.js";
import { className, text } from "../page/texts.js";

const MOST = 4; // pictures of a class
const classes = new Map(); // code → promise of its cells, with the addresses of their pictures in this page

/** Show the reference cells of some classes, the suggested one first. */
export async function showReferences(codes) {
  const box = byId("detail-references");
  box.hidden = false;
  const shown = [...new Set(codes)];
  box.dataset.codes = shown.join();
  const groups = await Promise.all(shown.map(async (code, at) => group(code, at === 0, await cellsOf(code))));
  if (box.dataset.codes === shown.join()) box.replaceChildren(...groups);
}

function cellsOf(code) {
  if (!classes.has(code)) classes.set(code, load(code));
  return classes.get(code);
}

async function load(code) {
  try {
    const path = `reference-cells/${encodeURIComponent(code)}`;
    const { cells } = await json(path);
    const found = await Promise.all(cells.slice(0, MOST).map(async ({ id, source }) => ({ source, url: await picture(`${path}/${id}`) })));
    return found.filter(({ url }) => url);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    classes.delete(code); // asked again with the next cell
    return [];
  }
}

/** The address of a picture in this page; "" if it is gone since the list was made. */
async function picture(path) {
  try {
    return URL.createObjectURL(await (await request(path)).blob());
  } catch (error) {
    if (error.status !== 404) throw error;
    return "";
  }
}

function group(code, isSuggested, cells) {
  const name = className(code);
  const sources = [...new Set(cells.map(({ source }) => source))];
  return element(
    "section",
    { class: "reference", "aria-label": text(isSuggested ? "reference.suggested" : "reference.considered", { class: name }) },
    element("h3", {}, element("span", { class: "fine" }, text(isSuggested ? "review.suggested" : "reference.compare")), name),
    element("div", { class: "reference-cells" }, cells.map(({ url, source }) => element("img", { src: url, alt: text(`reference.alt.${source}`, { class: name }) }))),
    element("p", { class: "fine" }, cells.length ? sources.map((source) => text(`reference.${source}`)).join(" · ") : text("reference.none")),
  );
}
