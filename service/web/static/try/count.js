/** The class count of a run. The service counts (`POST /classify/differential`); this shows its answer. */

import { json, Problem } from "../page/api.js";
import { countChart, countTable } from "../page/count_chart.js";
import { byId, element } from "../page/element.js";
import { className, list, number, text } from "../page/texts.js";
import { manifestText } from "../page/words.js";
import { countsOf, decisionOf } from "./cells.js";

/** Count the answered cells and show the count; the count, or null if the service does not answer. */
export async function showCount(cells) {
  const problems = cells.filter(({ state }) => state === "failed").length;
  try {
    const found = await json("classify/differential", { data: { counts: countsOf(cells), problems } });
    draw(found);
    showRejected(cells);
    return found;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return null; // the count of the next answers will be shown
  }
}

function draw(count) {
  const excluded = count.excluded.reduce((sum, each) => sum + each.count, 0);
  const parts = [text("count.counted", { count: count.counted })];
  if (excluded) parts.push(text("count.not-counted", { count: excluded }));
  if (count.problems) parts.push(text("count.problems", { count: count.problems }));
  byId("count-summary").textContent = parts.join(" · ");
  byId("count-chart").replaceChildren(...(count.counted ? [countChart(count)] : []));
  byId("count-table").replaceChildren(countTable(count));
  showUnsupported(count);
}

/** The count takes every suggested class, as the service's does; a rejected one should not be used. */
function showRejected(cells) {
  const rejected = cells.filter((cell) => decisionOf(cell) === "reject").length;
  byId("count-rejected").hidden = !rejected;
  byId("count-rejected").textContent = text("count.rejected", { count: rejected });
}

function showUnsupported({ classes, counted_unsupported: cells }) {
  const warning = byId("count-unsupported");
  const names = classes.filter((share) => share.count && !share.supported).map(({ code, name }) => className(code, name));
  warning.hidden = !cells;
  if (cells) warning.textContent = text("count.unsupported", { count: cells, names: list(names) });
}

/** The model that answered, for the page and its print. */
export async function showModel() {
  const model = await json("model");
  const rows = [
    [text("about.model"), `${model.name} ${model.version}`],
    [text("about.supported"), `${number(model.classes.length - model.unsupported.length)} / ${number(model.classes.length)}`],
    [text("about.use"), manifestText(model.intended_use)],
  ];
  byId("about").replaceChildren(...rows.flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)]));
  return model;
}
