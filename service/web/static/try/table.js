/** The answers of a run as a table and as JSON. */

import { problemText } from "../page/api.js";

const COLUMNS = [
  "name", "class", "class_name", "probability", "supported", "decision", "reasons", "prediction_set", "novelty_p_value",
  "problem",
]; // prettier-ignore

/** One row a picture, below the names of the columns. */
export const rows = (cells) => [COLUMNS, ...settled(cells).map(row)];

function row({ name, result, problem }) {
  if (!result) return [name, ...COLUMNS.slice(2).map(() => ""), problemText(problem)];
  const { prediction, decision, reasons, novelty } = result;
  return [
    name,
    prediction.code,
    prediction.name,
    prediction.probability,
    prediction.supported,
    decision,
    (reasons ?? []).map(({ code }) => code).join(" "),
    (prediction.set ?? []).join(" "),
    novelty?.p_value,
    "",
  ];
}

/** The API's own documents: model, differential, and one result or problem a picture. */
export function asJson(cells, differential, model) {
  const results = settled(cells).map(({ name, result, problem }) => ({ name, result, problem }));
  const { name, version, sha256, manifest_sha256, unsupported } = model ?? {};
  return JSON.stringify({ model: { name, version, sha256, manifest_sha256, unsupported }, differential, results }, null, 2);
}

const settled = (cells) => cells.filter(({ state }) => state !== "waiting");
