/** The specimens of the laboratory, newest first, by state; a barcode opens one. */

import { alerting, oneAtATime } from "../page/alert.js";
import { address, json } from "../page/api.js";
import { byId, element } from "../page/element.js";
import { requirePerson } from "../page/person.js";
import { poll } from "../page/polling.js";
import { ago, dateTime, number, text } from "../page/texts.js";
import { askSpecimen } from "./open_specimen.js";
import { patientData, patientName, stateChip } from "./patient.js";

const POLL_S = 10;
const PAGE = 100;
/** States behind each choice; `work` is what still needs a person. */
const STATES = { work: ["open", "amending"], all: [] };

let [entries, next] = [[], null];

const filters = byId("filters");
const chosenState = () => filters.elements.state.value || "work";

function query(more) {
  const states = STATES[chosenState()] ?? [chosenState()];
  return `worklist?${new URLSearchParams([...states.map((state) => ["state", state]), ...Object.entries(more)])}`;
}

async function load({ isBackground = false } = {}) {
  // As many as are shown, so that a refresh does not take older ones away.
  const limit = Math.min(200, Math.max(PAGE, entries.length));
  const found = await json(query({ limit }), { isBackground });
  [entries, next] = [found.specimens, found.next ?? null];
  draw();
}

async function loadOlder() {
  const found = await json(query({ limit: PAGE, before: next }));
  [entries, next] = [[...entries, ...found.specimens], found.next ?? null];
  draw();
}

function draw() {
  const wanted = byId("search").value.trim().toLocaleLowerCase();
  const shown = entries.filter((entry) => !wanted || words(entry).includes(wanted));
  const focused = document.activeElement?.closest("#rows a")?.getAttribute("href");
  byId("rows").replaceChildren(...shown.map(row));
  if (focused) byId("rows").querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  byId("worklist").hidden = !shown.length;
  byId("none").hidden = shown.length > 0;
  byId("older").hidden = next === null;
  byId("status").textContent = text("worklist.shown", { count: shown.length });
}

const words = ({ number: label, patient }) =>
  [label, patient.identifier, patient.family, patient.given].filter(Boolean).join(" ").toLocaleLowerCase();

function row(entry) {
  const target = `lab/${entry.id}`;
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, element("a", { href: target }, entry.number)),
    cell("patient", element("span", { class: "patient" }, patientName(entry.patient)), element("span", { class: "fine" }, patientData(entry))),
    cell("state", stateChip(entry.state)),
    cell("progress", progress(entry)),
    cell("waiting", entry.waiting_review ? element("b", { class: "waits" }, number(entry.waiting_review)) : "–"),
    cell("delivery", entry.delivery ? element("span", { class: `chip delivery-${entry.delivery}` }, text(`delivery.${entry.delivery}`)) : "–"),
    cell("age", element("time", { datetime: entry.opened_at, title: dateTime(entry.opened_at) }, ago(entry.opened_at))),
  );
}

const cell = (column, ...content) => element("td", { "data-label": text(`worklist.${column}`) }, element("div", {}, content));

function progress({ counted, target_cells: target }) {
  const bar = element("progress", { max: target, value: Math.min(counted, target), "aria-label": text("worklist.progress") });
  return [bar, element("span", { class: "fine" }, text("specimen.counted", { counted, target }))];
}

/** A barcode reader types the number and presses Enter: open that specimen, in any state. */
async function find() {
  const wanted = byId("search").value.trim();
  if (!wanted) return;
  const { specimens } = await json(`worklist?${new URLSearchParams({ number: wanted })}`);
  if (specimens.length) return go(specimens[0]);
  const links = [...byId("rows").querySelectorAll("a")];
  if (links.length === 1) links[0].click();
  else if (!links.length) await open(wanted);
}

const go = ({ id }) => location.assign(address(`lab/${id}`));

async function open(label = "") {
  if ((await requirePerson()) === null) return;
  const opened = await askSpecimen(label);
  if (opened) go(opened);
}

function chooseState() {
  history.replaceState(null, "", `?${new URLSearchParams({ state: chosenState() })}`);
  entries = [];
  return load();
}

filters.elements.state.value = new URLSearchParams(location.search).get("state") ?? "work";
if (!filters.elements.state.value) filters.elements.state.value = "work";
byId("search").addEventListener("input", draw);
byId("states").addEventListener("change", alerting(chooseState));
const findOrShow = alerting(find);
filters.addEventListener("submit", (event) => {
  event.preventDefault();
  findOrShow();
});
byId("open").addEventListener("click", alerting(() => open()));
byId("older").addEventListener("click", oneAtATime(alerting(loadOlder)));
await requirePerson();
await alerting(load)();
byId("search").focus();
poll(load, POLL_S);
