/** The reports of a specimen with their deliveries in words, and what an amendment has changed. */

import { address, json } from "../page/api.js";
import { byId, element } from "../page/element.js";
import { className, dateTime, number, oneDigit, text, textOr } from "../page/texts.js";
import { reportFacts } from "./report_facts.js";
import { route } from "./specimen.js";

/** @param {{retry: (id: string) => void, drop: (id: string) => void}} actions for messages that were not delivered */
export function showVersions({ versions }, actions) {
  byId("versions-none").hidden = versions.length > 0;
  byId("versions").replaceChildren(...[...versions].reverse().map((each) => version(each, actions)));
}

function version({ version: count, status, created_at: created, messages }, actions) {
  return element(
    "li",
    {},
    element("b", {}, text(`report.status.${status}`)),
    ` · ${text("report.version", { version: count })} · ${dateTime(created)} · `,
    element("a", { href: address(route(`/reports/${count}`)) }, "JSON"),
    element("ul", {}, messages.map((message) => delivery(message, actions))),
  );
}

function delivery({ channel, state, attempts, reason, control_id: id }, { retry, drop }) {
  const needsPerson = state !== "delivered" && state !== "dropped";
  const needsDecision = state === "dead" || state === "held";
  return element(
    "li",
    {},
    element("span", { class: `chip delivery-${state}` }, text(`delivery.${state}`)),
    ` ${textOr(`channel.${channel}`, channel)} · ${text("delivery.attempts", { count: attempts })}`,
    reason && element("p", { class: "fine as-written" }, reason),
    needsDecision && element("p", { class: "fine" }, text(`delivery.${state}.how`)),
    needsPerson &&
      element(
        "div",
        { class: "actions" },
        needsDecision && element("button", { type: "button", class: "small", onclick: () => retry(id) }, text("delivery.retry")),
        element("button", { type: "button", class: "small", onclick: () => drop(id) }, text("delivery.drop")),
      ),
  );
}

const documents = new Map(); // signed reports never change

async function report(version) {
  if (!documents.has(version)) documents.set(version, await json(route(`/reports/${version}`)));
  return documents.get(version);
}

const signedVersions = ({ versions }) => versions.filter(({ status }) => status !== "preliminary").map((each) => each.version);

/** The last signed report in words. */
export async function showSigned(specimen) {
  const last = signedVersions(specimen).at(-1);
  byId("signed").replaceChildren(...(last ? reportFacts(await report(last)) : []));
}

/** While a specimen is amended: what differs from the last report; afterwards, what the last one has changed. */
export async function showChanges(specimen) {
  const signed = signedVersions(specimen);
  const isAmending = specimen.state === "amending";
  byId("changes").hidden = !(isAmending ? signed.length : signed.length > 1);
  if (byId("changes").hidden) return;
  const before = await report(signed.at(isAmending ? -1 : -2));
  const now = isAmending ? specimen : await report(signed.at(-1));
  const rows = changes(before, now);
  byId("changes-rows").replaceChildren(...(rows.length ? rows : [element("tr", {}, element("td", { colspan: 3 }, text("report.changes.none")))]));
}

function changes(before, now) {
  const [old, current] = [shares(before.differential), shares(now.differential)];
  const codes = new Set([...old.keys(), ...current.keys()]);
  const rows = [...codes].filter((code) => old.get(code)?.count !== current.get(code)?.count).map((code) => changeRow(className(code, (old.get(code) ?? current.get(code)).name), words(old.get(code)), words(current.get(code))));
  if (before.megakaryocytes !== now.megakaryocytes) rows.push(changeRow(text("report.megakaryocytes"), count(before), count(now)));
  return rows;
}

const shares = ({ classes, excluded }) => new Map([...classes, ...excluded].map((share) => [share.code, share]));
const count = ({ megakaryocytes }) => (megakaryocytes === undefined ? "–" : number(megakaryocytes));

function words(share) {
  if (!share) return "–";
  return share.percent === undefined ? number(share.count) : `${number(share.count)} (${oneDigit(share.percent)} %)`;
}

const changeRow = (name, before, now) =>
  element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, before), element("td", {}, now));
