/** The model that answers, in words: what it is for, what limits it has, and how it was measured. */

import { alerting } from "../page/alert.js";
import { json } from "../page/api.js";
import { byId, element } from "../page/element.js";
import { poll } from "../page/polling.js";
import { className, number, points, precisePercent, text, textOr } from "../page/texts.js";
import { showDrift } from "./drift.js";
import { manifestText } from "../page/words.js";

const DRIFT_EVERY_S = 30;
/** Of the whole model's figures those that people read; all are in `GET /model`. */
const FIGURES = ["accuracy", "lineage_accuracy", "balanced_accuracy", "macro_f1", "accuracy_at_90_coverage", "ece"];

const row = (head, ...values) => element("tr", {}, element("th", { scope: "row" }, head), values.map((each) => element("td", {}, each)));
const interval = ({ low, high }) => (low == null || high == null ? "–" : `${precisePercent(low)} – ${precisePercent(high)}`);

function figureGroup(split, metrics) {
  const shown = FIGURES.flatMap((name) => metrics.filter((each) => each.name === name && each.code == null));
  const head = element("tr", {}, element("th", { scope: "rowgroup", colspan: 4, class: "group", lang: "en" }, split));
  return element("tbody", {}, head, shown.map((each) => row(text(`metric.${each.name}`), precisePercent(each.value), interval(each), number(each.n))));
}

function showFigures({ metrics }) {
  const splits = Map.groupBy(metrics, ({ split }) => split);
  byId("figures").append(...[...splits].map(([split, found]) => figureGroup(split, found)));
  byId("figures-none").hidden = metrics.length > 0;
}

/** The figures of each class on the first test set, which is the one that the model is meant for. */
function showClasses({ classes, unsupported, training_images: pictures, metrics }) {
  const first = metrics.filter(({ split }) => split === metrics[0].split);
  const figure = (name, code) => {
    const found = first.find((each) => each.name === name && each.code === code);
    return found ? `${precisePercent(found.value)} (${interval(found)})` : "–";
  };
  const rows = classes.map(({ code, name }) => {
    const isSupported = !unsupported.includes(code);
    const cells = [text(isSupported ? "model.yes" : "model.no"), number(pictures[code] ?? 0), figure("recall", code), figure("precision", code)];
    const shown = row(`${className(code, name)} (${code})`, ...cells);
    shown.classList.toggle("is-unsupported", !isSupported);
    return shown;
  });
  byId("classes").replaceChildren(...rows);
}

function showParts({ lesions, inert }) {
  byId("parts-section").hidden = !lesions?.length;
  const rows = (lesions ?? []).map(({ part, changed, accuracy_change: change, n }) =>
    row(element("span", { lang: "en" }, part, (inert ?? []).includes(part) && ` (${text("model.inert")})`), precisePercent(changed), points(change), number(n)),
  );
  byId("parts").replaceChildren(...rows);
}

function showData({ sources, split, sha256, licence }) {
  const rows = sources.map(({ name, tissue, licence: terms, attribution, training_images: pictures }) => {
    const count = Object.values(pictures ?? {}).reduce((sum, each) => sum + each, 0);
    return [element("dt", {}, name), element("dd", { lang: "en" }, `${tissue}, ${terms}. ${attribution}`, count ? element("span", { class: "fine" }, ` ${text("model.pictures", { count })}`) : null)];
  });
  const facts = [["model.split", split], ["model.licence", licence], ["SHA-256", sha256]].filter(([, value]) => value);
  byId("data").replaceChildren(...rows.flat(), ...facts.flatMap(([key, value]) => [element("dt", {}, textOr(key, key)), element("dd", { lang: "en", class: "as-written" }, value)]));
}

async function start() {
  const model = await json("model");
  byId("model-name").textContent = `${model.name} ${model.version}`;
  byId("use").replaceChildren(manifestText(model.intended_use));
  byId("limits").replaceChildren(...model.limits.map((each) => element("li", {}, manifestText(each))));
  for (const show of [showFigures, showClasses, showParts, showData]) show(model);
  await showDrift();
  poll(showDrift, DRIFT_EVERY_S);
  byId("model").hidden = false;
  byId("model").setAttribute("aria-busy", "false");
}

await alerting(start)();
