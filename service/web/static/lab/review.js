/** The review of a specimen: people read its cells. */

import { alerting, hideAlert, showAlert } from "../page/alert.js";
import { json, Problem } from "../page/api.js";
import { CellDetail, requestMaps } from "../page/cell_detail.js";
import { byId, element } from "../page/element.js";
import { listenForFiles } from "../page/intake.js";
import { requirePerson } from "../page/person.js";
import { className, list, text } from "../page/texts.js";
import { keepUnsaved } from "../page/unsaved.js";
import { describe } from "./cell_facts.js";
import { Cells, isRead } from "./cells.js";
import { classKeys } from "./class_keys.js";
import { compareCells, MOST_COMPARED } from "./compare.js";
import { askClass, askMerge, requireReason } from "./dialogs.js";
import { Palette } from "./palette.js";
import { picture } from "./pictures.js";
import { Readings } from "./readings.js";
import { showReferences } from "./references.js";
import { askRemoval, removeCells } from "./removal.js";
import { ReviewGallery } from "./review_gallery.js";
import { isOpen, loadSpecimen, showHead, watch } from "./specimen.js";
import { addFiles, clearProblems } from "./upload.js";

const cells = new Cells();
let [specimen, model, classes, keys, palette] = [null, null, [], new Map(), null];
let uploads = 0; // of files that are not all added yet

const gallery = new ReviewGallery(cells, {
  open: (cell, shown) => detail.open(cell, shown),
  chosen: drawSelection,
  confirmClass,
});
const detail = new CellDetail({ describe, maps, closed: (cell) => gallery.focus(cell.place), considered });
const readings = new Readings(cells, {
  changed: show,
  merge: (conflicts) => askMerge(conflicts, cells),
  removed: (places) => showAlert(text("review.removed-by-others", { places: list(places.map(String)) })),
  failed: (error) => {
    if (!(error instanceof Problem)) reportError(error);
    showAlert(error.message);
    refreshSpecimen();
  },
});

/** Maps of a cell by the current model; its probabilities too, if the same model suggested the class. */
async function maps(cell) {
  const blob = await picture(cell.place);
  if (!blob) throw new Problem({ title: text("review.no-picture"), status: 404 });
  const answer = await requestMaps(blob, Boolean(model?.attention_scales.length));
  if (answer.model.sha256 === cell.model) cell.result.probabilities = answer.probabilities;
  return answer;
}

/** The suggested class, and another one: the chosen one, that of the reading, or the most probable of the others. */
function considered(cell, chosen) {
  const { suggested, code, top } = cell;
  const other = [chosen, code, ...top.map((each) => each.code)].find((each) => each !== suggested);
  showReferences(other ? [suggested, other] : [suggested]);
}

/** What the person looks at, for others who have the specimen open. */
function look() {
  const place = byId("detail").open ? detail.cell.place : gallery.place;
  const { code } = gallery.filters;
  return place ? { place } : code ? { code } : {};
}

function show(places) {
  gallery.update(places);
  drawClassFilter();
  if (palette && specimen) palette.update(cells.all, specimen.differential);
  scheduleSpecimen();
}

let scheduled = null;

/** The counts follow the readings, once the last of them is answered. */
function scheduleSpecimen() {
  clearTimeout(scheduled);
  scheduled = setTimeout(() => readings.queue.then(refreshSpecimen), 150);
}

async function refreshSpecimen() {
  try {
    await takeSpecimen(await loadSpecimen());
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showAlert(error.message);
  }
}

function showSpecimen(found) {
  specimen = found;
  showHead(specimen);
  palette?.update(cells.all, specimen.differential);
  byId("review").classList.toggle("is-closed", !isOpen(specimen));
  drawSelection();
}

/** Take the specimen as it is now. If others have changed it, take their cells too; own readings on their way stay. */
async function takeSpecimen(found) {
  if (found.revision !== cells.revision) {
    await readings.queue;
    gallery.update(await cells.load(found.revision));
    drawClassFilter();
  }
  showSpecimen(found);
}

function drawSelection() {
  const count = gallery.selected.size;
  const may = specimen !== null && isOpen(specimen);
  byId("selection").textContent = may || !specimen ? text("review.selected", { count }) : text(`review.closed.${specimen.state}`);
  byId("confirm").disabled = byId("give").disabled = !may || !count;
  byId("undo").disabled = !may || !readings?.past.length;
  byId("remove").disabled = !may || !count;
  byId("compare").disabled = count < 2 || count > MOST_COMPARED;
}

/** The menu of classes, for touch screens and screen readers. */
function drawMenu() {
  const options = classes.map(({ code, name }) => element("option", { value: code }, `${className(code, name)} (${(keys.get(code) ?? "").toUpperCase()})`));
  byId("give").append(...options);
}

function takeMenu() {
  const code = byId("give").value;
  byId("give").value = "";
  if (code) return act(code);
}

function drawClassFilter() {
  const select = byId("filter-class");
  const chosen = select.value;
  const present = new Set(cells.all.map(({ code }) => code)).add(chosen);
  const options = classes
    .filter(({ code }) => present.has(code))
    .map(({ code, name }) => element("option", { value: code, selected: code === chosen }, className(code, name)));
  select.replaceChildren(select.options[0], ...options);
}

/** Read cells as of a class; without one they are confirmed. */
async function read(targets, code) {
  hideAlert();
  targets = targets.filter(({ place }) => cells.byPlace.has(place)); // others may have removed the one that is open
  if (!targets.length || !isOpen(specimen)) return false;
  if ((await requirePerson()) === null) return false;
  const isChange = code !== undefined && targets.some((cell) => cell.code !== code);
  const what = isChange && text("review.change", { count: targets.length, class: className(code) });
  const why = isChange ? await requireReason(what) : undefined;
  if (why === null) return false;
  readings.read(targets, code, why);
  return true;
}

/** Read the chosen cells, or the one with the focus; then go on with the next one. */
async function act(code) {
  const targets = gallery.targets;
  const last = targets.at(-1);
  const next = last && gallery.after(last.place);
  if (!(await read(targets, code))) return;
  gallery.selectNone();
  if (next && !byId("detail").open) gallery.focus(next);
}

async function confirmClass(code) {
  const unread = gallery.shown.filter((cell) => cell.code === code && !isRead(cell)); // none that is not seen
  if (unread.length > 1 && !(await askClass(code, unread.length))) return;
  await read(unread);
}

async function undo() {
  if ((await requirePerson()) === null) return;
  const places = readings.undo(text("review.undone"));
  if (places.length) gallery.focus(places[0]);
}

/** Show the chosen cells side by side. */
async function compare() {
  if (byId("compare").disabled) return;
  await compareCells(gallery.targets);
}

/** Remove cells, after the person has given a reason; whether they were removed. */
async function remove(targets) {
  if (!targets.length || !isOpen(specimen) || (await requirePerson()) === null) return false;
  await readings.queue; // own readings are in the versions that the person sees
  const seen = targets.map(({ place, version }) => ({ place, version }));
  const next = gallery.after(seen.at(-1).place);
  const reason = await askRemoval(seen.length);
  if (!reason) return false;
  await readings.after(() => removeCells(seen, reason, cells));
  show(seen.map(({ place }) => place));
  if (next && !byId("detail").open) gallery.focus(next);
  return true;
}

function takeAdded({ items, revision }) {
  cells.advance(revision);
  show(cells.apply(items.filter(({ cell }) => cell).map(({ cell }) => cell)));
}

async function add(files) {
  if ((await requirePerson()) === null) return;
  clearProblems();
  uploads += 1;
  try {
    await addFiles(files, takeAdded, (words) => (byId("selection").textContent = words));
  } finally {
    uploads -= 1;
  }
  if (!gallery.isInUse) gallery.sort();
  drawSelection();
}

function pressed(event) {
  if (event.target.closest("dialog, input:not([type=radio]), select, textarea") || event.altKey) return;
  const isCommand = event.ctrlKey || event.metaKey;
  const tile = event.target.closest(".tile");
  const cell = tile && cells.byPlace.get(Number(tile.dataset.place));
  const key = event.key.toLowerCase();
  if (isCommand && key === "z") undo();
  else if (isCommand && key === "a") gallery.selectAll();
  else if (isCommand && key === "enter") act();
  else if (isCommand) return;
  else if (key === "escape") gallery.selectNone();
  else if (key === "enter" && cell) gallery.open(cell, gallery.shown);
  else if (key === " " && cell) gallery.toggle(cell);
  else if (key === "delete") remove(gallery.targets);
  else if (key === "=") compare();
  else if (codeOf(key)) act(codeOf(key));
  else return;
  event.preventDefault();
}

/** In the detail view a key reads or removes the cell that is shown, and goes on with the next one. */
async function pressedInDetail(event) {
  if (event.key === "Delete") return removeInDetail();
  const isConfirmation = (event.ctrlKey || event.metaKey) && event.key === "Enter";
  const code = event.ctrlKey || event.metaKey || event.altKey ? undefined : codeOf(event.key.toLowerCase());
  if (!isConfirmation && !code) return;
  event.preventDefault();
  if (!(await read([detail.cell], code))) return;
  const isLast = detail.cells.at(-1) === detail.cell;
  await (isLast ? detail.show(detail.cell) : detail.step(1));
}

async function removeInDetail() {
  const { cell } = detail;
  if (!(await remove([cell])) || cells.byPlace.has(cell.place)) return;
  const at = detail.cells.indexOf(cell);
  detail.cells.splice(at, 1);
  if (!detail.cells.length) return byId("detail").close();
  await detail.show(detail.cells[Math.min(at, detail.cells.length - 1)]);
}

const codeOf = (key) => [...keys].find(([, letter]) => letter === key)?.[0];

async function start() {
  await requirePerson();
  const [found, table, manifest] = await Promise.all([loadSpecimen(), json("classes"), json("model")]);
  await cells.load(found.revision);
  [classes, model] = [table.classes, manifest];
  keys = classKeys(classes);
  palette = new Palette(classes, keys, alerting(act));
  gallery.sort();
  drawClassFilter();
  drawMenu();
  showSpecimen(found);
  byId("review").setAttribute("aria-busy", "false");
  watch(() => specimen, takeSpecimen, { look, present: (others) => gallery.showPeople(others) });
}

document.addEventListener("keydown", pressed);
byId("detail").addEventListener("keydown", pressedInDetail);
byId("confirm").addEventListener("click", () => act());
byId("undo").addEventListener("click", undo);
byId("remove").addEventListener("click", () => remove(gallery.targets));
byId("compare").addEventListener("click", compare);
byId("give").addEventListener("change", takeMenu);
listenForFiles(byId("drop"), byId("files"), alerting(add));
keepUnsaved(() => readings.open > 0 || uploads > 0, () => readings.queue);
await alerting(start)();
