/** The audit trail of a specimen in words. */

import { json } from "../page/api.js";
import { byId, element } from "../page/element.js";
import { className, dateTime, text, textOr } from "../page/texts.js";
import { route } from "./specimen.js";

export async function showTrail() {
  const entries = [];
  for (let after = ""; after !== null; ) {
    const page = await json(route(`/audit${after}`));
    entries.push(...page.entries);
    after = page.next ? `?after=${page.next}` : null;
  }
  byId("trail").replaceChildren(...entries.reverse().map(row));
}

function row({ at, actor, identity, action, details }) {
  const isClaimed = identity?.kind === "claimed";
  return element(
    "tr",
    {},
    element("td", {}, element("time", { datetime: at }, dateTime(at))),
    element("td", {}, element("bdi", {}, actor), isClaimed && element("span", { class: "fine" }, ` (${text("person.unverified")})`)),
    element("td", {}, textOr(`trail.${action}`, action), element("span", { class: "fine as-written" }, words(action, details))),
  );
}

/** Details that a person reads; the rest is in the API's answer. */
function words(action, details) {
  if (action === "read") return details.cells.slice(0, 6).map(reading).join("; ") + (details.cells.length > 6 ? " …" : "");
  if (action === "add") return ` ${details.places.join(" – ")}`;
  if (action === "sign" || action === "report") return ` ${text("report.version", { version: details.version })}`;
  if (action === "look") return ` ${textOr(`trail.look.${details.what.split("/")[0]}`, details.what)}`;
  if (action === "remove") return ` ${details.place}: ${details.reason}`;
  if (action === "deliver") return ` ${textOr(`delivery.${details.state}`, details.state)}`;
  if (action === "change") return ` ${details.fields.map((field) => textOr(`trail.field.${field}`, field)).join(", ")}`;
  return details.reason ?? details.why ? ` ${details.reason ?? details.why}` : "";
}

function reading([place, before, after, why]) {
  if (before === after) return ` ${place}: ${className(after)} ✓`;
  return ` ${place}: ${className(before)} → ${className(after)}${why ? ` (${why})` : ""}`;
}
