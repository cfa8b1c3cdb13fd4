/** One picture of a run: waiting, answered (`result`) or failed (`problem`). */

let count = 0;

/**
 * @param {string} name as the file or archive member is called
 * @param {Blob | null} picture null until it is unpacked, or if it cannot be
 */
export function newCell(name, picture) {
  count += 1;
  return { number: count, name, picture, url: picture && URL.createObjectURL(picture), state: "waiting" };
}

export function answer(cell, { result, problem }) {
  cell.state = result ? "answered" : "failed";
  cell.result = result;
  cell.problem = problem;
}

/** Free the memory of pictures that are no longer shown. */
export const release = (cells) => cells.forEach(({ url }) => url && URL.revokeObjectURL(url));

/** `accept`, `review`, `reject`, `none` (a model without a trust reference), `problem`, or `waiting`. */
export function decisionOf({ state, result }) {
  if (state === "answered") return result.decision ?? "none";
  return state === "failed" ? "problem" : "waiting";
}

/** The number of answered cells of each suggested class. */
export function countsOf(cells) {
  const counts = {};
  for (const { result } of cells) if (result) counts[result.prediction.code] = (counts[result.prediction.code] ?? 0) + 1;
  return counts;
}
