/** Drift in words: whether recent pictures are like those that the model was tested on, and what to do if not. */

import { json } from "../page/api.js";
import { byId, element } from "../page/element.js";
import { className, number, precisePercent, text, twoDigits } from "../page/texts.js";

export async function showDrift(options = {}) {
  const found = await json("model/drift", options);
  byId("drift-words").replaceChildren(...words(found).map(([content, isWarning]) => element("li", { class: isWarning ? "warning" : null }, content)));
  byId("drift-do").hidden = !found.many_rejected && !found.kinds.some(({ drifted }) => drifted);
  byId("mix").hidden = !found.class_mix.length;
  byId("mix-rows").replaceChildren(...found.class_mix.map(mixRow));
}

/** Sentences, each with whether it is a warning. */
function words({ measured, pictures, least_pictures: least, kinds, reference, decisions, many_rejected: isMany }) {
  if (!measured) return [[text("drift.none"), false], rejected(decisions, isMany)];
  if (!kinds.length) return [[text("drift.few", { count: pictures, least }), false], rejected(decisions, isMany)];
  const window = [text("drift.window", { count: pictures, reference }), false];
  return [window, rejected(decisions, isMany), ...kinds.map(kindWords)];
}

function rejected({ accept, review, reject }, isMany) {
  const answers = accept + review + reject;
  if (!answers) return [text("drift.rejected.none"), false];
  const values = { count: answers, rejected: reject, share: precisePercent(reject / answers) };
  return [`${text("drift.rejected", values)} ${text(isMany ? "drift.rejected.many" : "drift.rejected.usual")}`, isMany];
}

function kindWords({ kind, distance, threshold, drifted: isDrifted }) {
  const values = { distance: twoDigits(distance), threshold: twoDigits(threshold) };
  return [`${text(`drift.${kind}.${isDrifted ? "changed" : "same"}`)} ${text("drift.distance", values)}`, isDrifted];
}

const mixRow = ({ code, share, reference }) =>
  element("tr", {}, element("th", { scope: "row" }, className(code)), element("td", {}, precisePercent(share)), element("td", {}, precisePercent(reference)));
