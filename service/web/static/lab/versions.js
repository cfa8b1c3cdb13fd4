/** The reports of a specimen with their deliveries in words. */

import { address, json } from "../page/api.js";
import { byId, element } from "../page/element.js";
import { alerting } from "../page/alert.js";
import { dateTime, text, textOr } from "../page/texts.js";
import { savePdf } from "./pdf.js";
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
    " ",
    element("button", { type: "button", class: "small", "aria-label": text("report.pdf.version", { version: count }), onclick: alerting(() => print(count)) }, text("report.pdf")),
    element("ul", {}, messages.map((message) => delivery(message, actions))),
  );
}

const print = (count) => savePdf(`/reports/${count}/pdf`, `report-${count}.pdf`);

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
