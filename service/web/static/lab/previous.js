/** The result and the previous signed report of the specimen, or else of the patient. Changes are marked. */

import { json } from "../page/api.js";
import { byId, element, hiddenText } from "../page/element.js";
import { className, dateTime, number, oneDigit, signedDigit, text } from "../page/texts.js";
import { assessmentWords } from "./report_facts.js";
import { route } from "./specimen.js";

export async function showPrevious(specimen) {
  const found = await json(route("/comparison"));
  byId("previous").hidden = !found.previous;
  if (!found.previous) return;
  const { previous, same_specimen: isSame, classes, findings } = found;
  const kind = isSame ? "specimen" : "patient";
  const values = { status: text(`report.status.${previous.status}`), version: previous.version, time: dateTime(previous.created_at) };
  byId("previous-title").textContent = text(`previous.title.${kind}`, values);
  byId("previous-how").textContent = text(`previous.how.${kind}`);
  byId("previous-specimen").textContent = isSame ? "" : text("previous.specimen", { number: previous.number });
  const [before, now] = [shares(previous.differential), shares(specimen.differential)];
  const rows = classes.filter(({ code }) => before.get(code)?.count || now.get(code)?.count);
  byId("previous-rows").replaceChildren(
    ...rows.map((change) => row(className(change.code, change.name), words(before.get(change.code)), words(now.get(change.code)), change)),
    row(text("report.me"), ratio(previous.differential), ratio(specimen.differential), { changed: findings.includes("me_ratio") }),
    ...WRITTEN.filter((name) => isSame ? findings.includes(name) : previous[name] ?? specimen[name]).map((name) =>
      row(text(`change.${name}`), written(name, previous), written(name, specimen), { changed: findings.includes(name) }),
    ),
  );
  byId("previous-none").hidden = findings.length + classes.filter(({ changed }) => changed).length > 0;
}

const WRITTEN = ["megakaryocytes", "megakaryocyte_assessment", "cellularity", "comment"];
const shares = ({ classes, excluded }) => new Map([...classes, ...excluded].map((share) => [share.code, share]));
const ratio = ({ me_ratio: { supported, value } }) => (supported && value !== undefined ? `${oneDigit(value)} : 1` : "–");

function written(name, { [name]: value }) {
  if (value === undefined) return "–";
  if (typeof value === "object") return assessmentWords(value);
  return typeof value === "number" ? number(value) : value;
}

function words(share) {
  if (!share) return "–";
  return share.percent === undefined ? number(share.count) : `${number(share.count)} (${oneDigit(share.percent)} %)`;
}

const row = (name, before, now, { changed, difference, low, high }) =>
  element(
    "tr",
    { class: changed ? "is-changed" : null },
    element("th", { scope: "row" }, name),
    element("td", { class: "as-written" }, before),
    element("td", { class: "as-written" }, now),
    element("td", {}, change(difference, low, high), changed && [hiddenText(` ${text("previous.changed")}`), element("span", { class: "mark", "aria-hidden": "true" }, " ●")]),
  );

function change(difference, low, high) {
  if (difference === undefined) return "";
  return signedDigit(difference) + (low === undefined ? "" : ` (${signedDigit(low)} – ${signedDigit(high)})`);
}
