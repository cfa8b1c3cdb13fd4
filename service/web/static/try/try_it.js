/** The page that classifies pictures and stores nothing. */

import { Problem, problemText } from "../page/api.js";
import { CellDetail, requestMaps } from "../page/cell_detail.js";
import { csv, save } from "../page/download.js";
import { byId } from "../page/element.js";
import { listenForFiles } from "../page/intake.js";
import { text } from "../page/texts.js";
import { answer, newCell, release } from "./cells.js";
import { classifyPictures, classifyZip, isZip } from "./classify.js";
import { showCount, showModel } from "./count.js";
import { describe } from "./facts.js";
import { Gallery } from "./gallery.js";
import { asJson, rows } from "./table.js";

let [cells, count, model] = [[], null, null];
let running = null; // the AbortController of the run in progress
let [expected, queue] = [0, []];

const detail = new CellDetail({
  describe,
  maps: (cell) => requestMaps(cell.picture, Boolean(model?.attention_scales.length)),
  closed: (cell) => gallery.focus(cell),
});
const gallery = new Gallery((cell, shown) => detail.open(cell, shown));

/** Classify files after those of a run that is still in progress. */
function take(files) {
  byId("alert").hidden = true;
  byId("results").hidden = false;
  document.body.classList.add("has-results");
  const taken = files.map((file) => newCell(file.name, file));
  add(taken);
  expected += taken.length;
  queue.push(...taken);
  if (!running) run();
}

function add(taken) {
  cells.push(...taken);
  gallery.add(taken);
}

async function run() {
  running = new AbortController();
  showProgress();
  try {
    model ??= await showModel();
    while (queue.length) await classify(queue.splice(0), running.signal);
  } catch (error) {
    stopped(error);
  } finally {
    running = null;
    queue = [];
    await updateCount();
    showProgress();
  }
}

async function classify(taken, signal) {
  const pictures = taken.filter((cell) => !isZip(cell.picture));
  if (pictures.length) await classifyPictures(pictures, settled, signal);
  for (const archive of taken.filter((cell) => isZip(cell.picture))) await unpack(archive, signal);
}

/** Replace the tile of an archive by those of its members, once the first is answered. */
async function unpack(archive, signal) {
  const arrival = {
    expected: (members) => (expected += Math.max(0, members - 1)),
    added: (cell) => {
      remove(archive);
      add([cell]);
    },
    settled,
  };
  await classifyZip(archive, arrival, signal);
  if (cells.includes(archive) && archive.state === "waiting") remove(archive); // it holds no file
  expected = cells.length;
}

function remove(cell) {
  if (!cells.includes(cell)) return;
  cells = cells.filter((each) => each !== cell);
  gallery.remove(cell);
}

let counting = null;

function settled(cell) {
  gallery.update(cell);
  showProgress();
  counting ??= setTimeout(updateCount, 400); // the count follows the answers, a few times a second
}

async function updateCount() {
  clearTimeout(counting);
  counting = null;
  if (cells.some(({ result }) => result)) count = await showCount(cells);
}

/** The run has ended early: cells without an answer say why. */
function stopped(error) {
  const isCancelled = error.name === "AbortError";
  if (!isCancelled && !(error instanceof Problem)) throw error;
  const problem = isCancelled ? { title: text("problem.cancelled") } : error.document;
  for (const cell of cells.filter(({ state }) => state === "waiting")) {
    answer(cell, { problem });
    gallery.update(cell);
  }
  expected = cells.length;
  if (isCancelled) return;
  byId("alert").textContent = problemText(error.document);
  byId("alert").hidden = false;
}

function showProgress() {
  const done = cells.filter(({ state }) => state !== "waiting").length;
  const problems = cells.filter(({ state }) => state === "failed").length;
  const total = Math.max(expected, done);
  byId("progress").max = Math.max(1, total);
  byId("progress").value = done;
  byId("cancel").hidden = !running;
  byId("clear").hidden = byId("more").hidden = Boolean(running);
  byId("results").setAttribute("aria-busy", String(Boolean(running)));
  const parts = [text(running ? "run.some" : "run.done", { done, count: total })];
  if (problems) parts.push(text("run.problems", { count: problems }));
  byId("status").textContent = parts.join(" · ");
}

function clear() {
  release(cells);
  [cells, count, expected] = [[], null, 0];
  gallery.clear();
  byId("results").hidden = byId("example-notice").hidden = byId("alert").hidden = true;
  document.body.classList.remove("has-results");
  byId("intake").scrollIntoView();
  byId("examples").focus();
}

async function takeExamples() {
  const pictures = [...byId("example-row").querySelectorAll("img")];
  const files = pictures.map(async ({ src, dataset }) => {
    const bytes = await (await fetch(src)).blob();
    return new File([bytes], dataset.name, { type: bytes.type });
  });
  byId("example-notice").hidden = false;
  take(await Promise.all(files));
}

listenForFiles(byId("drop"), byId("files"), take);
byId("examples").addEventListener("click", takeExamples);
byId("cancel").addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", clear);
byId("print").addEventListener("click", () => {
  byId("count-details").open = true;
  window.print();
});
byId("save-csv").addEventListener("click", () => save("marrowlens.csv", "text/csv", csv(rows(cells))));
byId("save-json").addEventListener("click", () => save("marrowlens.json", "application/json", asJson(cells, count, model)));
