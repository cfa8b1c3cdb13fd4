/** The report of a specimen: its differential, the signature, versions, deliveries and the audit trail. */

import { alerting, oneAtATime, showAlert } from "../page/alert.js";
import { json } from "../page/api.js";
import { countChart, countTable } from "../page/count_chart.js";
import { byId, element } from "../page/element.js";
import { requirePerson } from "../page/person.js";
import { className, list, oneDigit, text, textOr, timeOfDay } from "../page/texts.js";
import { keepUnsaved } from "../page/unsaved.js";
import { areUnsaved, offerTemplates, onFindings, saveFindings, showFindings } from "./findings.js";
import { missingWords } from "./missing.js";
import { savePdf } from "./pdf.js";
import { showPreview } from "./preview.js";
import { showPrevious } from "./previous.js";
import { showSecondReading } from "./second_reading.js";
import { isOpen, loadSpecimen, route, showHead, watch } from "./specimen.js";
import { showTrail } from "./trail.js";
import { showSigned, showVersions } from "./versions.js";

let specimen = null;
/** Fields of a signature that a person accepts. */
const ACCEPTS = ["accept_unread", "accept_below_target"];

async function showAll(found) {
  const isFirst = specimen === null;
  specimen = found;
  showHead(specimen);
  showDifferential(specimen.differential);
  showForms(isFirst);
  showVersions(specimen, deliveries);
  await Promise.all([showSigned(specimen), showPrevious(specimen), showTrail()]);
}

function showDifferential(count) {
  byId("count-summary").textContent = text("report.read", { read: count.read_by_person, cells: count.cells });
  byId("count-chart").replaceChildren(...(count.counted ? [countChart(count)] : []));
  byId("count-table").replaceChildren(countTable(count));
  const unsupported = count.classes.filter((share) => count.unsupported.includes(share.code) && share.count);
  byId("count-unsupported").hidden = !unsupported.length;
  byId("count-unsupported").textContent = text("report.unsupported", { names: list(unsupported.map(({ code, name }) => className(code, name))) });
  byId("ratios").replaceChildren(...ratio(count.me_ratio), ...count.lineages.filter((each) => each.count).flatMap(lineage));
}

function ratio({ supported, value, low, high, formula }) {
  const words = !supported ? text("report.not-measured") : value === undefined ? "–" : `${oneDigit(value)} : 1`;
  const interval = supported && low !== undefined && high !== undefined ? ` (${oneDigit(low)} – ${oneDigit(high)})` : "";
  const terms = formulaWords(formula);
  return [element("dt", { title: terms }, text("report.me")), element("dd", {}, words + interval, element("span", { class: "fine" }, ` ${terms}`))];
}

/** The formula of the M:E ratio with its lineages and classes in the page's language. */
const formulaWords = (formula) => formula.replace(/[^\s()+/]+/g, (name) => textOr(`lineage.${name}`, className(name)));

const lineage = ({ lineage: name, supported, percent }) => [
  element("dt", {}, textOr(`lineage.${name}`, name)),
  element("dd", {}, supported && percent !== undefined ? `${oneDigit(percent)} %` : text("report.not-measured")),
];

function showForms(isFirst) {
  const may = isOpen(specimen);
  byId("sign-form").hidden = !may;
  showSecondReading(specimen);
  byId("amend-form").hidden = specimen.state !== "signed";
  byId("sign-state").textContent = text(`report.state.${specimen.state}`, { reason: specimen.correction ?? "" });
  showFindings(specimen);
  if (isFirst) byId("accept").replaceChildren();
  const { counted, target_cells: target, waiting_review: count, to_go: missing } = specimen.differential;
  offer("accept_unread", may && count > 0, text("report.accept_unread", { count }));
  offer("accept_below_target", may && missing > 0, text("report.accept_below_target", { counted, target }));
}

/** Offer to sign in spite of something: the person chooses, and the report says so. */
function offer(name, isNeeded, words) {
  if (!isNeeded) return void byId(name)?.closest("label").remove();
  const shown = byId(name);
  if (shown) return void (shown.nextSibling.textContent = words);
  byId("accept").append(element("label", { class: "choice" }, element("input", { type: "checkbox", id: name }), element("span", {}, words)));
}

function request() {
  const accepted = ACCEPTS.filter((name) => byId(name)?.checked).map((name) => [name, true]);
  return { revision: specimen.revision, ...Object.fromEntries(accepted) };
}

/** Run an action on the specimen as the person sees it; if it has changed meanwhile, show the change instead. */
async function onSeen(action) {
  try {
    return await action();
  } catch (error) {
    if (error.kind === "stale-revision") {
      await showAll(await loadSpecimen());
      return void showAlert(text("report.stale"));
    }
    if (error.kind !== "not-reviewed") throw error;
    showAlert(missingWords(specimen, (name) => byId(name)?.checked));
  }
}

/** Store what the person has written; false if it is not stored. */
const save = () => saveFindings(store);

async function store(changes) {
  const isStored = await onSeen(async () => {
    await showAll(await json(route(), { method: "PATCH", data: { revision: specimen.revision, ...changes } }));
    return true;
  });
  byId("saved").textContent = isStored ? text("report.saved", { time: timeOfDay(Date.now()) }) : "";
  return isStored === true;
}

async function preview() {
  if ((await requirePerson()) === null || !(await save())) return;
  const print = alerting(() => onSeen(() => savePdf("/preview/pdf", "report-preview.pdf", request())));
  await onSeen(async () => showPreview(await json(route("/preview"), { data: request() }), print));
}

async function sign() {
  if ((await requirePerson()) === null || !(await save())) return;
  await onSeen(async () => {
    await json(route("/sign"), { data: request() });
    byId("saved").textContent = "";
    byId("accept").replaceChildren();
    await showAll(await loadSpecimen());
    byId("sign-state").tabIndex = -1;
    byId("sign-state").focus();
  });
}

async function confirmCells() {
  if ((await requirePerson()) === null) return;
  await onSeen(async () => showAll(await json(route("/second-reading"), { data: { revision: specimen.revision } })));
}

async function amend() {
  if ((await requirePerson()) === null) return;
  await onSeen(async () => {
    const reason = byId("amend-reason").value.trim();
    await json(route("/amend"), { data: { revision: specimen.revision, reason } });
    byId("amend-reason").value = "";
    await showAll(await loadSpecimen());
  });
}

async function retry(id) {
  if ((await requirePerson()) === null) return;
  await showAll(await json(route(`/messages/${id}/retry`), { method: "POST" }));
}

async function drop(id) {
  const reason = await askDropReason();
  if (!reason || (await requirePerson()) === null) return;
  await showAll(await json(route(`/messages/${id}/drop`), { data: { reason } }));
}

const deliveries = { retry: oneAtATime(alerting(retry)), drop: oneAtATime(alerting(drop)) };

/** Why a message is given up; "" if the person does not give it up. */
function askDropReason() {
  const dialog = byId("drop-dialog");
  byId("drop-reason").value = dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "save" ? byId("drop-reason").value.trim() : ""), { once: true }),
  );
}

function submits(form, action) {
  const shown = oneAtATime(alerting(action));
  byId(form).addEventListener("submit", (event) => {
    event.preventDefault();
    shown();
  });
}

async function start() {
  await requirePerson();
  await showAll(await loadSpecimen());
  await offerTemplates(save);
  byId("report").setAttribute("aria-busy", "false");
  watch(() => specimen, showAll);
}

submits("sign-form", sign);
submits("amend-form", amend);
byId("confirm").addEventListener("click", oneAtATime(alerting(confirmCells)));
byId("print").addEventListener("click", () => window.print());
byId("preview").addEventListener("click", oneAtATime(alerting(preview)));
onFindings(alerting(save));
keepUnsaved(areUnsaved, alerting(save));
await alerting(start)();
